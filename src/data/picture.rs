//! Images as samples, with declared preprocessing.
//!
//! An image is decoded to 8 bits a channel, resized, cropped, brought to the channels of the input, and
//! each pixel value `p` becomes `(p * scale - mean) / std`, computed in binary64 and rounded once. Nothing
//! is guessed that would change values: the size must come out right, or the image is refused.
//!
//! - Decoding: alpha is dropped without blending, 16 bits are reduced to 8, the EXIF orientation is not
//!   applied (as in Pillow's `Image.open`).
//! - Resizing is bilinear over an area that grows with the reduction (Pillow's `BILINEAR` does the same).
//! - A letterbox scales by `r = min(W / w, H / h)` to `round(w r) x round(h r)` in the middle
//!   (ultralytics' `LetterBox`) or `floor(w r) x floor(h r)` in the upper left corner (YOLOX' `preproc`).
//! - Grey is ITU-R 601 luma in the integer form of Pillow's `convert("L")`.

use super::fit::Input;
use super::preprocessing::{Channels, Layout, Letterbox, Place, Preprocessing, Resize, Size};
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageReader, Limits, Rgb, RgbImage};
use squint_ir::{DType, Dim, Tensor};
use std::fmt::Write as _;
use std::path::Path;

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
    description: String,
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
        let side = |d: Option<u64>| d.and_then(|d| u32::try_from(d).ok());
        let resize = match p.resize {
            Some(Resize::Letterbox(l @ Letterbox { size: None, .. })) => {
                let (Some(width), Some(height)) = (side(want[1]), side(want[0])) else {
                    return Err(cannot(
                        "its size is free; give that of the letterbox, as `--letterbox 640x640`",
                    ));
                };
                Some(Resize::Letterbox(Letterbox { size: Some(Size { width, height }), ..l }))
            }
            other => other,
        };
        let description = describe(p, resize, channels, layout, table.is_empty());
        let (input, dtype, crop) = (input.name.clone(), input.dtype, p.crop);
        Ok(Picture { resize, crop, channels, layout, batched, want, table, dtype, input, description })
    }

    /// All that is done to an image, as the flags that say so.
    pub(crate) fn description(&self) -> &str {
        &self.description
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
        if let Some(resize) = self.resize {
            let size = resize.size(&image)?;
            image = imageops::resize(&image, size.width, size.height, FilterType::Triangle);
            if let Resize::Letterbox(l) = resize {
                image = l.fill(&image);
            }
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
                    "is {w}x{h} pixels, but input `{}` takes {ww}x{wh}; say how with `--resize`, `--crop` or `--letterbox`",
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

impl Resize {
    /// The size to resize an image to.
    fn size(self, image: &RgbImage) -> Result<Size, String> {
        let size = match self {
            Resize::Exact(size) => size,
            Resize::ShortSide(side) => {
                let (w, h) = (u64::from(image.width()), u64::from(image.height()));
                let long = u64::from(side) * w.max(h) / w.min(h).max(1);
                let long = u32::try_from(long).unwrap_or(u32::MAX);
                if w < h { Size { width: side, height: long } } else { Size { width: long, height: side } }
            }
            Resize::Letterbox(l) => l.inner(image),
        };
        // The size that is filled bounds what is inside.
        let most = match self {
            Resize::Letterbox(Letterbox { size: Some(outer), .. }) => outer,
            _ => size,
        };
        if most.width > MAX_SIDE || most.height > MAX_SIDE {
            return Err(format!("would be {most} pixels after resizing; the limit is {MAX_SIDE} a side"));
        }
        Ok(size)
    }
}

impl Letterbox {
    /// The size of the image inside. The arithmetic is that of the sources, in binary64.
    fn inner(self, image: &RgbImage) -> Size {
        let (w, h) = image.dimensions();
        let outer = self.size.unwrap_or(Size { width: w, height: h });
        let ratio =
            (f64::from(outer.width) / f64::from(w.max(1))).min(f64::from(outer.height) / f64::from(h.max(1)));
        let scaled = |side: u32, limit: u32| {
            let x = f64::from(side) * ratio;
            let x = if self.place == Place::Corner { x.floor() } else { x.round_ties_even() };
            (x as u32).clamp(1, limit)
        };
        Size { width: scaled(w, outer.width), height: scaled(h, outer.height) }
    }

    /// Puts the resized image into its place.
    fn fill(self, inner: &RgbImage) -> RgbImage {
        let (w, h) = inner.dimensions();
        let outer = self.size.unwrap_or(Size { width: w, height: h });
        let mut out = RgbImage::from_pixel(outer.width, outer.height, Rgb([self.fill; 3]));
        let (x, y) = match self.place {
            Place::Corner => (0, 0),
            Place::Center => ((outer.width - w) / 2, (outer.height - h) / 2),
        };
        imageops::replace(&mut out, inner, i64::from(x), i64::from(y));
        out
    }
}

/// The flags that stand for what is done, all defaults worked out; `bytes` if pixel values stay as they are.
fn describe(
    p: &Preprocessing,
    resize: Option<Resize>,
    channels: Channels,
    layout: Layout,
    bytes: bool,
) -> String {
    let mut out = String::new();
    let _ = match resize {
        None => Ok(()),
        Some(Resize::Exact(size)) => write!(out, "--resize {size} "),
        Some(Resize::ShortSide(side)) => write!(out, "--resize {side} "),
        Some(Resize::Letterbox(l)) => write!(out, "--letterbox {l} "),
    };
    if let Some(size) = p.crop {
        let _ = write!(out, "--crop {size} ");
    }
    let _ = write!(out, "--channels {channels} --layout {layout}");
    if bytes {
        return out;
    }
    let _ = write!(out, " --scale {}", p.scale());
    for (flag, list) in [("mean", &p.mean), ("std", &p.std)] {
        if !list.is_empty() {
            let list: Vec<String> = list.iter().map(f64::to_string).collect();
            let _ = write!(out, " --{flag} {}", list.join(","));
        }
    }
    out
}

fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
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
        let scaled = Preprocessing { scale: Some(1.0.into()), ..Preprocessing::default() };
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
    fn letterboxes_keep_the_aspect_and_fill_the_rest() {
        let run = |letterbox: &str, w: u32, h: u32| {
            let p = Preprocessing {
                resize: letterbox.parse().ok().map(Resize::Letterbox),
                scale: Some(1.0.into()),
                ..Preprocessing::default()
            };
            let image = DynamicImage::ImageRgb8(RgbImage::from_pixel(w, h, Rgb([9; 3])));
            Picture::new(&input(DType::Float, &[1, 3, 4, 8]), &p).unwrap().prepare(image).unwrap().to_f32s()
        };
        let row = |values: &[f32], y: usize| values[y * 8..][..8].to_vec();
        // 2x2 becomes 4x4, with two columns at each side.
        assert_eq!(row(&run("input", 2, 2), 0), [114., 114., 9., 9., 9., 9., 114., 114.]);
        assert_eq!(row(&run("8x4,corner,7", 2, 2), 3), [9., 9., 9., 9., 7., 7., 7., 7.]);
        // 7x2 becomes 8x2.29: one row above and one below, or two below.
        assert_eq!([0, 1, 2, 3].map(|y| row(&run("input", 7, 2), y)[0]), [114., 9., 9., 114.]);
        assert_eq!([0, 1, 2, 3].map(|y| row(&run("input,corner", 7, 2), y)[0]), [9., 9., 114., 114.]);
        // 13x5 to 8x3.08; in the middle, the odd row is below.
        assert_eq!([0, 1, 2, 3].map(|y| row(&run("input", 13, 5), y)[0]), [9., 9., 9., 114.]);
        let free = Input {
            shape: Some(vec![Dim::Unknown, Dim::Known(3), Dim::Unknown, Dim::Unknown]),
            ..input(DType::Float, &[])
        };
        let p =
            Preprocessing { resize: "input".parse().ok().map(Resize::Letterbox), ..Preprocessing::default() };
        assert!(Picture::new(&free, &p).unwrap_err().contains("--letterbox 640x640"));
    }

    #[test]
    fn the_description_has_all_defaults_worked_out() {
        let p = Preprocessing { crop: "8x4".parse().ok(), std: vec![58.0], ..Preprocessing::default() };
        let picture = Picture::new(&input(DType::Float, &[1, 3, 4, 8]), &p).unwrap();
        assert_eq!(picture.description(), "--crop 8x4 --channels rgb --layout nchw --scale 1 --std 58");
        let picture = Picture::new(&input(DType::Uint8, &[1, 4, 8, 1]), &Preprocessing::default()).unwrap();
        assert_eq!(picture.description(), "--channels gray --layout nhwc");
    }
}
