//! What is done to images before the model sees them, as options that are written as text.
//!
//! Every type here reads and prints the same syntax, so that what is printed (and stamped into the
//! quantized model) can be given again on the command line.

use std::fmt;
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
    pub scale: Option<Scale>,
    /// Subtracted after scaling: one number, or one for each channel in the order of the model's channels.
    pub mean: Vec<f64>,
    /// Divided by after the mean is subtracted; as many as `mean` allows.
    pub std: Vec<f64>,
    /// Order of the colours. The default is red, green, blue, or grey where the input has one channel.
    pub channels: Option<Channels>,
    /// Order of the axes. The default follows from the input's shape.
    pub layout: Option<Layout>,
}

/// Width and height in pixels, as `224x160`.
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
    /// To this width and height, whatever the aspect was; as `224x160`.
    Exact(Size),
    /// The shorter side to this length, keeping the aspect; the longer side is rounded down. As `256`.
    ShortSide(u32),
    /// As large as fits, keeping the aspect, with the rest filled.
    Letterbox(Letterbox),
}

/// Fitting an image into a size and filling the rest, as `640x640`, `input` or `416x416,corner,114`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letterbox {
    /// The size to fill; `None` for that of the model's input.
    pub size: Option<Size>,
    /// Where the image lies in it.
    pub place: Place,
    /// Pixel value of the rest, in every channel.
    pub fill: u8,
}

/// Where a letterboxed image lies, and how its size is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the middle, half a pixel to the left and up; its size is rounded to the nearest pixel.
    Center,
    /// In the upper left corner; its size is rounded down.
    Corner,
}

/// A factor, as a fraction: with `1/255`, pixel values are divided by 255, which is not the same to the
/// last bit as a multiplication by the number nearest to 1/255.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// What is multiplied by.
    pub numerator: f64,
    /// What is divided by.
    pub denominator: f64,
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

/// The fill of letterboxes where none is given: the grey of the YOLO family.
pub(crate) const FILL: u8 = 114;

impl Preprocessing {
    /// These options, and those of `preset` where they say nothing. A letterbox is a way to resize.
    pub fn over(self, preset: Preprocessing) -> Preprocessing {
        let list = |own: Vec<f64>, other: Vec<f64>| if own.is_empty() { other } else { own };
        Preprocessing {
            resize: self.resize.or(preset.resize),
            crop: self.crop.or(preset.crop),
            scale: self.scale.or(preset.scale),
            mean: list(self.mean, preset.mean),
            std: list(self.std, preset.std),
            channels: self.channels.or(preset.channels),
            layout: self.layout.or(preset.layout),
        }
    }

    /// The factor on pixel values that holds.
    pub(crate) fn scale(&self) -> Scale {
        let pixels = self.mean.iter().any(|m| m.abs() > 1.0) || self.std.iter().any(|s| *s > 1.0);
        let denominator = if pixels { 1.0 } else { 255.0 };
        self.scale.unwrap_or(Scale { numerator: 1.0, denominator })
    }

    /// For each channel, what each pixel value becomes.
    ///
    /// # Errors
    /// If there are not as many numbers as channels, or they are of no use.
    pub(crate) fn table(&self, channels: usize) -> Result<Vec<[f32; 256]>, String> {
        let scale = self.scale();
        let each = |list: &[f64], name: &str, default: f64, c: usize| match list.len() {
            0 => Ok(default),
            1 => Ok(list[0]),
            n if n == channels => Ok(list[c]),
            n => Err(format!("`--{name}` has {n} numbers for {channels} channels; give 1 or {channels}")),
        };
        let mut out = Vec::with_capacity(channels);
        for c in 0..channels {
            let (mean, std) = (each(&self.mean, "mean", 0.0, c)?, each(&self.std, "std", 1.0, c)?);
            if ![scale.of(255), mean, std].iter().all(|x| x.is_finite()) || std <= 0.0 {
                return Err("`--scale`, `--mean` and `--std` must be finite, and `--std` above 0".into());
            }
            out.push(std::array::from_fn(|p| ((scale.of(p) - mean) / std) as f32));
        }
        Ok(out)
    }
}

impl Channels {
    /// Their number.
    pub(crate) fn count(self) -> usize {
        if self == Channels::Gray { 1 } else { 3 }
    }
}

impl Scale {
    fn of(self, pixel: usize) -> f64 {
        pixel as f64 * self.numerator / self.denominator
    }
}

impl From<f64> for Scale {
    fn from(factor: f64) -> Scale {
        Scale { numerator: factor, denominator: 1.0 }
    }
}

impl FromStr for Scale {
    type Err = String;
    fn from_str(s: &str) -> Result<Scale, String> {
        let parse = |part: &str| match part.trim().parse::<f64>() {
            Ok(x) if x.is_finite() => Ok(x),
            _ => Err(format!("`{s}` is neither a number nor a fraction such as 1/255")),
        };
        let (numerator, denominator) = s.split_once('/').unwrap_or((s, "1"));
        match (parse(numerator)?, parse(denominator)?) {
            (_, 0.0) => Err(format!("`{s}` divides by zero")),
            (numerator, denominator) => Ok(Scale { numerator, denominator }),
        }
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.denominator {
            1.0 => write!(f, "{}", self.numerator),
            d => write!(f, "{}/{d}", self.numerator),
        }
    }
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

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
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

impl FromStr for Letterbox {
    type Err = String;
    fn from_str(s: &str) -> Result<Letterbox, String> {
        let mut parts = s.split(',');
        let size = match parts.next().unwrap_or_default() {
            "input" => None,
            size => Some(size.parse().map_err(|e| format!("{e}, nor `input`"))?),
        };
        let mut out = Letterbox { size, place: Place::Center, fill: FILL };
        for part in parts {
            match (part, part.parse()) {
                ("center", _) => out.place = Place::Center,
                ("corner", _) => out.place = Place::Corner,
                (_, Ok(fill)) => out.fill = fill,
                _ => return Err(format!("`{part}` is none of center, corner and a pixel value 0..255")),
            }
        }
        Ok(out)
    }
}

impl fmt::Display for Letterbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.size {
            Some(size) => write!(f, "{size}")?,
            None => write!(f, "input")?,
        }
        let place = if self.place == Place::Corner { "corner" } else { "center" };
        write!(f, ",{place},{}", self.fill)
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

impl fmt::Display for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Channels::Rgb => "rgb",
            Channels::Bgr => "bgr",
            Channels::Gray => "gray",
        })
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

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Layout::Nchw { "nchw" } else { "nhwc" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parsed_and_printed() {
        assert_eq!("224x160".parse(), Ok(Resize::Exact(Size { width: 224, height: 160 })));
        assert_eq!("256".parse(), Ok(Resize::ShortSide(256)));
        for bad in ["0", "3x", "0x4", "input"] {
            assert!(bad.parse::<Resize>().is_err(), "{bad}");
        }
        for text in ["640x480,center,114", "input,corner,0"] {
            assert_eq!(text.parse::<Letterbox>().unwrap().to_string(), text);
        }
        assert_eq!("8x8".parse::<Letterbox>().unwrap().to_string(), "8x8,center,114");
        for bad in ["", "640", "8x8,256", "8x8,left"] {
            assert!(bad.parse::<Letterbox>().is_err(), "{bad}");
        }
        for text in ["1/255", "2", "1/127.5", "0.5"] {
            assert_eq!(text.parse::<Scale>().unwrap().to_string(), text);
        }
        assert!(["1/0", "x", "1/2/3", "inf"].iter().all(|s| s.parse::<Scale>().is_err()));
    }

    #[test]
    fn the_default_divides_by_255_as_binary32_does() {
        let table = Preprocessing::default().table(1).unwrap();
        for (p, x) in table[0].iter().enumerate() {
            assert_eq!(x.to_bits(), (p as f32 / 255.0).to_bits(), "{p}");
        }
    }
}
