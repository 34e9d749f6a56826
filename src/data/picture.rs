//! Images as samples, with declared preprocessing.
//!
//! An image is decoded to 8 bits a channel, resized, cropped, brought to the channels of the input, and
//! each pixel value `p` becomes `(p * scale - mean) / std`, computed in binary64 and rounded once. Nothing
//! is guessed that would change values: the size must come out right, or the image is refused.
//!
//! - Decoding: alpha is dropped without blending, 16 bits are reduced to 8, the EXIF orientation is not
//!   applied (as in Pillow's `Image.open`).
//! - Resizing is bilinear over an area that grows with the reduction (Pillow's `BILINEAR` does the same).
//! - Grey is ITU-R 601 luma in the integer form of Pillow's `convert("L")`.

use super::fit::Input;
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageReader, Limits, RgbImage};
use squint_ir::{DType, Dim, Tensor};
use std::path::Path;
use std::str::FromStr;

/// What is done to an image before the model sees it. The default is only the division by 255.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preprocessing {
    /// Size to bring the image to; `None` leaves it.
    pub resize: Option<Resize>,
    /// Width and height of the middle part that is kept, after resizing.
    pub crop: Option<Size>,
    /// Factor on pixel values 0..255. The default is 1/255, or 1 where a mean or standard deviation above
    /// 1 shows that they are in units of pixel values.
    pub scale: Option<f64>,
    /// Subtracted after scaling: one number, or one for each channel in the order of the model's channels.
    pub mean: Vec<f64>,
    /// Divided by after the mean is subtracted; as many as `mean` allows.
    pub std: Vec<f64>,
    /// Order of the colours. The default is red, green, blue, or grey where the input has one channel.
    pub channels: Option<Channels>,
    /// Order of the axes. The default follows from the input's shape.
    pub layout: Option<Layout>,
}

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// How an image is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// To this width and height, whatever the aspect was.
    Exact(Size),
    /// The shorter side to this length, keeping the aspect; the longer side is rounded down.
    ShortSide(u32),
}

/// Order of the colours of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel of luma.
    Gray,
}

/// Order of the axes of an image tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Batch, channels, rows, columns.
    Nchw,
    /// Batch, rows, columns, channels.
    Nhwc,
}

/// Longest side that is accepted, in a file or after resizing.
const MAX_SIDE: u32 = 1 << 15;

/// Preprocessing worked out for one input.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    resize: Option<Resize>,
    crop: Option<Size>,
    channels: Channels,
    layout: Layout,
    /// Whether the input has a batch axis.
    batched: bool,
    /// Rows and columns the input wants, where it says.
    want: [Option<u64>; 2],
    /// For each channel of the tensor, the value of each pixel value; empty for an input of `uint8`.
    table: Vec<[f32; 256]>,
    dtype: DType,
    input: String,
}

impl Picture {
    /// Fits the declared preprocessing to an input.
    ///
    /// # Errors
    /// If images cannot be fed to this input, or the preprocessing contradicts it.
    pub(crate) fn new(input: &Input, p: &Preprocessing) -> Result<Picture, String> {
        let cannot = |why: &str| {
            format!(
                "images do not fit the model's input `{}`, which is {}: {why}",
                input.name,
                input.describe()
            )
        };
        let shape = input.shape.as_ref().ok_or_else(|| cannot("its rank is not known"))?;
        let (batched, axes) = match shape.len() {
            3 => (false, &shape[..]),
            4 => (true, &shape[1..]),
            _ => return Err(cannot("3 or 4 axes are needed")),
        };
        if batched && shape[0].known().is_some_and(|n| n != 1) {
            return Err(cannot("its batch is fixed, and each image is one sample; use `.npz` files"));
        }
        let colours = |d: &Dim| matches!(d.known(), Some(1 | 3));
        let layout = match p.layout {
            Some(l) => l,
            None if colours(&axes[0]) && !colours(&axes[2]) => Layout::Nchw,
            None if colours(&axes[2]) && !colours(&axes[0]) => Layout::Nhwc,
            None => {
                return Err(cannot(
                    "which axis holds the channels is not clear; give `--layout nchw` or `nhwc`",
                ));
            }
        };
        let (c, h, w) = match layout {
            Layout::Nchw => (&axes[0], &axes[1], &axes[2]),
            Layout::Nhwc => (&axes[2], &axes[0], &axes[1]),
        };
        let channels =
            p.channels.unwrap_or(if c.known() == Some(1) { Channels::Gray } else { Channels::Rgb });
        if c.known().is_some_and(|n| n != channels.count() as u64) {
            return Err(cannot(&format!("it has {c} channels, not {}", channels.count())));
        }
        let table = match input.dtype {
            DType::Float | DType::Float16 | DType::Double => p.table(channels.count())?,
            DType::Uint8 if p.scale.is_none() && p.mean.is_empty() && p.std.is_empty() => Vec::new(),
            DType::Uint8 => {
                return Err(cannot("it takes pixel values as they are, without scale, mean and std"));
            }
            _ => return Err(cannot("its elements are neither floating-point nor `uint8`")),
        };
        let want = [h.known(), w.known()];
        let (input, dtype) = (input.name.clone(), input.dtype);
        Ok(Picture { resize: p.resize, crop: p.crop, channels, layout, batched, want, table, dtype, input })
    }

    /// Reads an image and makes a sample of it.
    ///
    /// # Errors
    /// What is wrong with the file, without its name.
    pub(crate) fn read(&self, path: &Path) -> Result<Tensor, String> {
        let mut reader = ImageReader::open(path)
            .and_then(ImageReader::with_guessed_format)
            .map_err(|e| format!("cannot be opened: {e}"))?;
        let mut limits = Limits::default();
        (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
        reader.limits(limits);
        self.prepare(reader.decode().map_err(|e| format!("cannot be decoded: {e}"))?)
    }

    fn prepare(&self, image: DynamicImage) -> Result<Tensor, String> {
        let mut image = image.into_rgb8();
        if let Some(size) = self.resize.map(|r| r.size(&image)).transpose()? {
            image = imageops::resize(&image, size.width, size.height, FilterType::Triangle);
        }
        if let Some(Size { width, height }) = self.crop {
            let (w, h) = image.dimensions();
            if width > w || height > h {
                return Err(format!("is {w}x{h} after resizing, too small to crop {width}x{height} from it"));
            }
            // Half a pixel is rounded to even, as in torchvision's CenterCrop.
            let half = |d: u32| d / 2 + (d & (d / 2) & 1);
            let (x, y) = (half(w - width), half(h - height));
            image = imageops::crop_imm(&image, x, y, width, height).to_image();
        }
        let (w, h) = image.dimensions();
        for (have, want) in [(h, self.want[0]), (w, self.want[1])] {
            if want.is_some_and(|want| want != u64::from(have)) {
                let side = |s: Option<u64>| s.map_or("any".to_owned(), |s| s.to_string());
                let (ww, wh) = (side(self.want[1]), side(self.want[0]));
                return Err(format!(
                    "is {w}x{h} pixels, but input `{}` takes {ww}x{wh}; say how with `--resize` and `--crop`",
                    self.input
                ));
            }
        }
        self.tensor(&image)
    }

    fn tensor(&self, image: &RgbImage) -> Result<Tensor, String> {
        let (w, h) = image.dimensions();
        let (w, h, n) = (w as usize, h as usize, self.channels.count());
        let mut values = vec![0u8; w * h * n];
        for (i, pixel) in image.pixels().enumerate() {
            let [r, g, b] = pixel.0;
            let ordered = match self.channels {
                Channels::Rgb => [r, g, b],
                Channels::Bgr => [b, g, r],
                Channels::Gray => [luma(r, g, b), 0, 0],
            };
            for (c, x) in ordered[..n].iter().enumerate() {
                let at = match self.layout {
                    Layout::Nchw => c * w * h + i,
                    Layout::Nhwc => i * n + c,
                };
                values[at] = *x;
            }
        }
        let mut dims = match self.layout {
            Layout::Nchw => vec![n, h, w],
            Layout::Nhwc => vec![h, w, n],
        };
        if self.batched {
            dims.insert(0, 1);
        }
        let channel = |i: usize| match self.layout {
            Layout::Nchw => i / (w * h),
            Layout::Nhwc => i % n,
        };
        let floats = || values.iter().enumerate().map(|(i, x)| self.table[channel(i)][usize::from(*x)]);
        match self.dtype {
            DType::Uint8 => Ok(Tensor::from_u8(&dims, &values)),
            DType::Float => Ok(Tensor::from_f32(&dims, &floats().collect::<Vec<_>>())),
            DType::Double => Ok(Tensor::from_f64(&dims, &floats().map(f64::from).collect::<Vec<_>>())),
            _ => {
                let raw: Vec<u8> = floats().flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect();
                Tensor::raw(self.dtype, &dims, raw.into()).map_err(|e| e.to_string())
            }
        }
    }
}

impl Preprocessing {
    /// For each channel, what each pixel value becomes.
    fn table(&self, channels: usize) -> Result<Vec<[f32; 256]>, String> {
        let pixels = self.mean.iter().any(|m| m.abs() > 1.0) || self.std.iter().any(|s| *s > 1.0);
        let scale = self.scale.unwrap_or(if pixels { 1.0 } else { 1.0 / 255.0 });
        let each = |list: &[f64], name: &str, default: f64, c: usize| match list.len() {
            0 => Ok(default),
            1 => Ok(list[0]),
            n if n == channels => Ok(list[c]),
            n => Err(format!("`--{name}` has {n} numbers for {channels} channels; give 1 or {channels}")),
        };
        let mut out = Vec::with_capacity(channels);
        for c in 0..channels {
            let (mean, std) = (each(&self.mean, "mean", 0.0, c)?, each(&self.std, "std", 1.0, c)?);
            if ![scale, mean, std].iter().all(|x| x.is_finite()) || std <= 0.0 {
                return Err("`--scale`, `--mean` and `--std` must be finite, and `--std` above 0".into());
            }
            out.push(std::array::from_fn(|p| ((p as f64 * scale - mean) / std) as f32));
        }
        Ok(out)
    }
}

impl Channels {
    fn count(self) -> usize {
        if self == Channels::Gray { 1 } else { 3 }
    }
}

impl Resize {
    fn size(self, image: &RgbImage) -> Result<Size, String> {
        let size = match self {
            Resize::Exact(size) => size,
            Resize::ShortSide(side) => {
                let (w, h) = (u64::from(image.width()), u64::from(image.height()));
                let long = u64::from(side) * w.max(h) / w.min(h).max(1);
                let long = u32::try_from(long).unwrap_or(u32::MAX);
                if w < h { Size { width: side, height: long } } else { Size { width: long, height: side } }
            }
        };
        if size.width > MAX_SIDE || size.height > MAX_SIDE {
            return Err(format!(
                "would be {}x{} pixels after resizing; the limit is {MAX_SIDE} a side",
                size.width, size.height
            ));
        }
        Ok(size)
    }
}

fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

impl FromStr for Size {
    type Err = String;
    fn from_str(s: &str) -> Result<Size, String> {
        let wrong = || format!("`{s}` is not of the form WIDTHxHEIGHT, for example 224x224");
        let (w, h) = s.split_once('x').ok_or_else(wrong)?;
        match (w.parse(), h.parse()) {
            (Ok(width), Ok(height)) if width > 0 && height > 0 => Ok(Size { width, height }),
            _ => Err(wrong()),
        }
    }
}

impl FromStr for Resize {
    type Err = String;
    fn from_str(s: &str) -> Result<Resize, String> {
        match s.parse() {
            Ok(0) => Err("the length of a side must be above 0".into()),
            Ok(side) => Ok(Resize::ShortSide(side)),
            Err(_) => s
                .parse()
                .map(Resize::Exact)
                .map_err(|e: String| format!("{e}, nor the length of the shorter side")),
        }
    }
}

impl FromStr for Channels {
    type Err = String;
    fn from_str(s: &str) -> Result<Channels, String> {
        match s {
            "rgb" => Ok(Channels::Rgb),
            "bgr" => Ok(Channels::Bgr),
            "gray" | "grey" => Ok(Channels::Gray),
            _ => Err(format!("`{s}` is none of rgb, bgr, gray")),
        }
    }
}

impl FromStr for Layout {
    type Err = String;
    fn from_str(s: &str) -> Result<Layout, String> {
        match s {
            "nchw" => Ok(Layout::Nchw),
            "nhwc" => Ok(Layout::Nhwc),
            _ => Err(format!("`{s}` is none of nchw, nhwc")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(dtype: DType, dims: &[usize]) -> Input {
        Input { name: "x".into(), dtype, shape: Some(dims.iter().map(|d| Dim::from(*d)).collect()) }
    }

    /// Two pixels beside each other: (255, 0, 51) and (0, 255, 102).
    fn two() -> DynamicImage {
        DynamicImage::ImageRgb8(RgbImage::from_raw(2, 1, vec![255, 0, 51, 0, 255, 102]).unwrap())
    }

    #[test]
    fn values_follow_the_formula_in_the_declared_order() {
        let p = Picture::new(&input(DType::Float, &[1, 3, 1, 2]), &Preprocessing::default()).unwrap();
        assert_eq!(p.prepare(two()).unwrap(), Tensor::from_f32(&[1, 3, 1, 2], &[1., 0., 0., 1., 0.2, 0.4]));
        let bgr = Preprocessing {
            channels: Some(Channels::Bgr),
            mean: vec![100.0, 110.0, 120.0],
            std: vec![2.0],
            ..Preprocessing::default()
        };
        let p = Picture::new(&input(DType::Float, &[1, 1, 2, 3]), &bgr);
        assert!(p.unwrap_err().contains("--layout"), "both axes could hold channels");
        let bgr = Preprocessing { layout: Some(Layout::Nhwc), ..bgr };
        let p = Picture::new(&input(DType::Float, &[1, 1, 2, 3]), &bgr).unwrap();
        assert_eq!(p.prepare(two()).unwrap().to_f32s(), [-24.5, -55.0, 67.5, 1.0, 72.5, -60.0]);
    }

    #[test]
    fn grey_and_bytes() {
        let p = Picture::new(
            &input(DType::Uint8, &[1, 1, 2]),
            &Preprocessing { layout: Some(Layout::Nchw), ..Preprocessing::default() },
        );
        assert_eq!(p.unwrap().prepare(two()).unwrap(), Tensor::from_u8(&[1, 1, 2], &[82, 161]));
        let scaled = Preprocessing { scale: Some(1.0), ..Preprocessing::default() };
        assert!(
            Picture::new(&input(DType::Uint8, &[1, 3, 5, 5]), &scaled).unwrap_err().contains("as they are")
        );
    }

    #[test]
    fn a_size_that_does_not_come_out_is_refused() {
        let mut p = Preprocessing::default();
        let x = input(DType::Float, &[1, 3, 4, 4]);
        let image = || DynamicImage::ImageRgb8(RgbImage::new(10, 6));
        let run = |p: &Preprocessing| Picture::new(&x, p).unwrap().prepare(image());
        assert!(run(&p).unwrap_err().starts_with("is 10x6 pixels, but input `x` takes 4x4"));
        p.resize = Some("4".parse().unwrap());
        assert!(run(&p).unwrap_err().starts_with("is 6x4 pixels"));
        p.crop = Some("4x4".parse().unwrap());
        assert_eq!(run(&p).unwrap().dims(), [1, 3, 4, 4]);
        p.crop = Some("7x4".parse().unwrap());
        assert!(run(&p).unwrap_err().contains("too small to crop"));
        p.resize = Some(Resize::ShortSide(MAX_SIDE));
        assert!(run(&p).unwrap_err().contains("limit"));
    }

    #[test]
    fn options_are_parsed() {
        assert_eq!("224x160".parse(), Ok(Resize::Exact(Size { width: 224, height: 160 })));
        assert_eq!("256".parse(), Ok(Resize::ShortSide(256)));
        assert!(
            "0".parse::<Resize>().is_err()
                && "3x".parse::<Resize>().is_err()
                && "0x4".parse::<Size>().is_err()
        );
    }
}
