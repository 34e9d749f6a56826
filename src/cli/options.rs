//! Options that several commands take.

use super::failure::Failure;
use super::talk::Talk;
use clap::{Args, ValueEnum};
use squint::data::{Channels, Layout, Preprocessing, Resize, Size};
use squint::passes::calibration::weights::WeightMethod;
use squint::targets::{target, targets};
use squint::{Config, DataOptions, Dataset, Method, Model};
use std::num::NonZeroUsize;

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs: one JSON object.
    Json,
}

/// What to compile for, and how.
#[derive(Args)]
pub(crate) struct CompileFlags {
    /// The runtime that the result is for.
    #[arg(long, value_name = "NAME", default_value = "cpu-vnni")]
    target: String,
    /// How ranges of activations are chosen: auto, minmax, percentile[:P], entropy, mse, lp:P or
    /// mean-minmax.
    #[arg(long, value_name = "METHOD", default_value = "auto")]
    method: Method,
    /// How ranges of weights are chosen: minmax, percentile[:P] or mse.
    #[arg(long, value_name = "METHOD", default_value = "minmax", value_parser = weight_method)]
    weight_method: WeightMethod,
    /// Keep the node of this name in float; `*` stands for any characters. May be given again.
    #[arg(long, value_name = "NAME")]
    keep_float: Vec<String>,
    /// Threads that run calibration samples. The result does not depend on it. [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

/// Where calibration data comes from.
#[derive(Args)]
#[command(next_help_heading = "Calibration data")]
pub(crate) struct DataFlags {
    /// Calibration data: `.npz`, `.npy`, `.png` and `.jpg` files, or folders of them. In a folder each
    /// file is one sample; a file given by itself is cut along its first axis. For a model with several
    /// inputs, use `.npz` files with an array for each, or write INPUT=PATH.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) data: Vec<String>,
    /// Use no more than this many samples, evenly spread over the data.
    #[arg(long, value_name = "N")]
    samples: Option<NonZeroUsize>,
    /// Resize images to WIDTHxHEIGHT, or the shorter side to N (bilinear).
    #[arg(long, value_name = "WxH|N")]
    resize: Option<Resize>,
    /// Keep the middle WIDTHxHEIGHT of images, after resizing.
    #[arg(long, value_name = "WxH")]
    crop: Option<Size>,
    /// Factor on pixel values 0..255; a pixel p becomes (p * scale - mean) / std. May be a fraction, as
    /// 1/128. [default: 1/255, or 1 if a mean or std is above 1]
    #[arg(long, value_name = "X", value_parser = number)]
    scale: Option<f64>,
    /// Mean of each channel, in the order of the model's channels.
    #[arg(long, value_name = "X,..", value_delimiter = ',', allow_negative_numbers = true)]
    mean: Vec<f64>,
    /// Standard deviation of each channel, in the order of the model's channels.
    #[arg(long, value_name = "X,..", value_delimiter = ',')]
    std: Vec<f64>,
    /// Order of colours: rgb, bgr or gray. [default: by the input's shape gray or rgb]
    #[arg(long, value_name = "ORDER")]
    channels: Option<Channels>,
    /// Order of axes: nchw or nhwc. [default: by the input's shape]
    #[arg(long, value_name = "ORDER")]
    layout: Option<Layout>,
}

impl CompileFlags {
    /// The configuration. Names of nodes that do not occur are reported.
    ///
    /// # Errors
    /// If there is no such target.
    pub(crate) fn config(&self, model: &Model, talk: &Talk) -> Result<Config, Failure> {
        let mut config = Config::new(known_target(&self.target)?);
        config.method = self.method;
        config.weight_method = self.weight_method;
        config.threads = self.threads.map(NonZeroUsize::get);
        let g = model.main();
        for name in &self.keep_float {
            config.keep_float = vec![name.clone()];
            if !g.ops().any(|o| config.keeps_float(&g.label(o))) {
                talk.say(format_args!("note: `--keep-float {name}` matches no node of the model"));
            }
        }
        config.keep_float = self.keep_float.clone();
        Ok(config)
    }
}

impl DataFlags {
    /// Opens the data; without any, says how to give some.
    ///
    /// # Errors
    /// If there is none, or it does not fit the model.
    pub(crate) fn open(&self, model: &Model, talk: &Talk) -> Result<Dataset, Failure> {
        if self.data.is_empty() {
            return Err(Failure::with_help(
                "static quantization needs calibration data: ranges of activations are measured on it",
                "give some typical inputs with `--data PATH`, for example a folder of images or an `.npz` file; \
                 64 to 500 samples are usual",
            ));
        }
        let preprocessing = Preprocessing {
            resize: self.resize,
            crop: self.crop,
            scale: self.scale,
            mean: self.mean.clone(),
            std: self.std.clone(),
            channels: self.channels,
            layout: self.layout,
        };
        let samples = self.samples.map(NonZeroUsize::get);
        let data = Dataset::open(model, &DataOptions { paths: self.data.clone(), samples, preprocessing })?;
        talk.notes(data.notes());
        Ok(data)
    }
}

/// The name of a target, if there is one of that name.
///
/// # Errors
/// The names there are.
pub(crate) fn known_target(name: &str) -> Result<&str, Failure> {
    if target(name).is_some() {
        return Ok(name);
    }
    let known: Vec<String> = targets().map(|t| format!("`{}` ({})", t.name(), t.description())).collect();
    Err(Failure::with_help(format!("there is no target `{name}`"), format!("there are {}", known.join(", "))))
}

/// The method of a name, which is spelled as for activations.
fn weight_method(text: &str) -> Result<WeightMethod, String> {
    match text.parse() {
        Ok(Method::MinMax) => Ok(WeightMethod::MinMax),
        Ok(Method::Mse) => Ok(WeightMethod::Mse),
        Ok(Method::Percentile(p)) => Ok(WeightMethod::Percentile(p)),
        _ => Err(format!("`{text}` is none of minmax, percentile[:P], mse")),
    }
}

/// The name of a method, as [`weight_method`] reads it.
pub(crate) fn weight_method_name(method: WeightMethod) -> String {
    match method {
        WeightMethod::MinMax => Method::MinMax,
        WeightMethod::Percentile(p) => Method::Percentile(p),
        WeightMethod::Mse => Method::Mse,
    }
    .to_string()
}

/// A number, or a fraction of two.
fn number(text: &str) -> Result<f64, String> {
    let parse =
        |s: &str| s.trim().parse::<f64>().map_err(|_| format!("`{text}` is neither a number nor a fraction"));
    match text.split_once('/') {
        Some((a, b)) => Ok(parse(a)? / parse(b)?),
        None => parse(text),
    }
}
