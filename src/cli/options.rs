//! Options that several commands take.

use super::failure::Failure;
use super::talk::Talk;
use clap::{Args, ValueEnum};
use squint::data::{Channels, Layout, Letterbox, PRESETS, Preprocessing, Preset, Resize, Scale, Size};
use squint::encodings;
use squint::passes::calibration::Constraints;
use squint::passes::calibration::weights::{WeightMethod, suits_weights};
use squint::passes::config::{Training, WeightBits};
use squint::passes::overrides::{Override, misfits};
use squint::targets::{host, target, targets};
use squint::{Config, DataOptions, Dataset, Hooks, Method, Model, OperatorFormat, Samples, Scheme};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs: one JSON object.
    Json,
}

/// How quantized operators are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModelFormat {
    /// Float operators between QuantizeLinear and DequantizeLinear.
    Qdq,
    /// Operators on integers: QLinearConv, QGemm and so on.
    Qoperator,
}

impl From<ModelFormat> for OperatorFormat {
    fn from(format: ModelFormat) -> OperatorFormat {
        match format {
            ModelFormat::Qdq => OperatorFormat::Qdq,
            ModelFormat::Qoperator => OperatorFormat::Qoperator,
        }
    }
}

/// What to compile for, and how.
#[derive(Args)]
pub(crate) struct CompileFlags {
    /// The runtime and processor that the result is for; `host` is that of this machine. Name it where the result
    /// must not depend on the machine that squint runs on.
    #[arg(long, value_name = "NAME", env = "SQUINT_TARGET", hide_env_values = true, default_value = "host")]
    target: String,
    /// When activations are quantized: auto, static (by scales from measured ranges), dynamic (by the range that
    /// they have in each run; needs no data) or weight-only (never: only weights of products are; needs no data).
    #[arg(long, value_name = "SCHEME", default_value = "auto")]
    pub(crate) scheme: Scheme,
    /// How ranges of activations are chosen: auto, minmax, percentile[:P], entropy, mse, lp:P,
    /// mean-minmax or moving-average[:WEIGHT].
    #[arg(long, value_name = "METHOD", default_value = "auto")]
    method: Method,
    /// How ranges of weights are chosen, for each channel: minmax, percentile[:P], entropy, mse, lp:P or auto.
    /// [default: minmax; mse for 4 bits and for weight-only]
    #[arg(long, value_name = "METHOD", value_parser = weight_method)]
    weight_method: Option<WeightMethod>,
    /// Use scales that are powers of two only, for kernels that shift instead of multiplying.
    #[arg(long)]
    power_of_two: bool,
    /// Leave the lowest level of the grids of activations of both signs unused (1..255, -127..127), as kernels of some
    /// accelerators want it. Weights never use it.
    #[arg(long)]
    narrow_range: bool,
    /// Widen ranges of activations that are narrower than this.
    #[arg(long, value_name = "X", default_value_t = 0.0, hide_default_value = true)]
    min_range: f32,
    /// How much work goes into accuracy. 0: ranges from statistics alone. 1: channels equalised, methods for
    /// ranges tried, biases corrected. 2: weights rounded by the outputs of their layers, too. 3: ranges refined
    /// one by one, too. What hurts on samples held back is undone.
    #[arg(long, value_name = "LEVEL", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=3))]
    effort: u8,
    /// Leave the channels of weights as they are, also where scaling some of them up and their readers down by as much
    /// would make the result more accurate: values then keep the units of the float model.
    #[arg(long)]
    no_equalize: bool,
    /// Signal to noise of the outputs, in dB, below which the operators that cost most accuracy stay in float.
    /// [default: 15; none for `qat export`]
    #[arg(long, value_name = "DB", allow_negative_numbers = true)]
    min_sqnr: Option<f64>,
    /// The axis of classes of outputs that are no Softmax and no row of scores, counted from the end if it is negative: 1 for
    /// a segmentation whose scores lie at pixels. What counts of classes is which is best.
    #[arg(long, value_name = "AXIS", allow_negative_numbers = true)]
    class_axis: Option<i64>,
    /// Keep the node of this name in float; `*` stands for any characters. May be given again.
    #[arg(long, visible_alias = "float", value_name = "NAME")]
    keep_float: Vec<String>,
    /// Wishes for single nodes and tensors, as `conv1: method=mse, symmetric` or `tensor=/head/*: range=-1..3`. The
    /// pattern is a glob for names of nodes and tensors, or after node=, tensor= or type= for one kind of them; after
    /// node~, tensor~ or type~ it is a regular expression. Wishes are float, int8, uint8, range=LO..HI, method=M,
    /// symmetric, per-channel and dynamic. May be given again; the last word counts.
    #[arg(long = "override", value_name = "PATTERN: WISHES")]
    overrides: Vec<Override>,
    /// Take ranges of activations from a file of another tool: AIMET encodings, PPQ's JSON, or names of tensors with
    /// `min` and `max`.
    #[arg(long, value_name = "FILE")]
    ranges: Option<PathBuf>,
    /// Take flags from this file: TOML with flags for keys, or a model that squint wrote, which carries its own. What
    /// the command line says itself counts.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Threads that run calibration samples. The result does not depend on it. [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

/// Where calibration data comes from.
#[derive(Args)]
#[command(next_help_heading = "Calibration data")]
pub(crate) struct DataFlags {
    /// Calibration data: `.npz`, `.npy`, `.safetensors`, `.pb`, `.bin`, `.png`, `.jpg`, `.bmp` and `.webp`
    /// files, folders of them, or `.txt` files that list them. In a folder or list each file is one sample;
    /// a file given by itself is cut along its first axis. For a model with several inputs, use files with
    /// an array for each, or write INPUT=PATH.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) data: Vec<String>,
    /// Use no more than this many samples, evenly spread over the data.
    #[arg(long, value_name = "N")]
    samples: Option<NonZeroUsize>,
    /// Preprocess images as a family of models does: imagenet, imagenet-caffe, mobilenet-tf, yolo or yolox.
    /// The flags below take the place of what the preset says.
    #[arg(long, value_name = "NAME", value_parser = preset)]
    preset: Option<Preset>,
    /// Resize images to WIDTHxHEIGHT, or the shorter side to N (bilinear).
    #[arg(long, value_name = "WxH|N")]
    resize: Option<Resize>,
    /// Resize images to fit into WIDTHxHEIGHT, or the input's size, keep their aspect and fill the rest.
    /// `,corner` puts them into the upper left corner, a number is the fill. [default fill: 114]
    #[arg(long, value_name = "WxH|input", conflicts_with = "resize")]
    letterbox: Option<Letterbox>,
    /// Keep the middle WIDTHxHEIGHT of images, after resizing.
    #[arg(long, value_name = "WxH")]
    crop: Option<Size>,
    /// Factor on pixel values 0..255; a pixel p becomes (p * scale - mean) / std. May be a fraction, as
    /// 1/128. [default: 1/255, or 1 if a mean or std is above 1]
    #[arg(long, value_name = "X")]
    scale: Option<Scale>,
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
    /// The `tokenizer.json` of the model, which makes numbers of texts: with it, `.txt` files hold a text on each
    /// line, and `.jsonl` files one in the field `text` of each line's object.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Cut texts to N tokens. [default: as the tokenizer says]
    #[arg(long, value_name = "N", requires = "tokenizer")]
    max_length: Option<NonZeroUsize>,
}

impl CompileFlags {
    /// The name of the target.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// Whether a scheme is asked for that needs no data.
    pub(crate) fn is_dynamic(&self) -> bool {
        self.scheme == Scheme::Dynamic
    }

    /// The configuration. Names of nodes that do not occur are reported.
    ///
    /// # Errors
    /// If there is no such target.
    pub(crate) fn config(&self, model: &Model, talk: &Talk) -> Result<Config, Failure> {
        let mut config = Config::new(known_target(&self.target)?);
        config.scheme = self.scheme;
        config.method = self.method;
        let by_default =
            if self.scheme == Scheme::WeightOnly { WeightMethod::Mse } else { config.weight_method };
        config.weight_method = self.weight_method.unwrap_or(by_default);
        if !(self.min_range >= 0.0 && self.min_range.is_finite()) {
            return Err(Failure::new(format!("`--min-range {}` is no width", self.min_range)));
        }
        config.constraints = Constraints {
            power_of_two: self.power_of_two,
            narrow_range: self.narrow_range,
            min_range: self.min_range,
            scale_type: None,
        };
        config.effort = self.effort;
        config.equalize = !self.no_equalize;
        if self.min_sqnr.is_some_and(f64::is_nan) {
            return Err(Failure::new("`--min-sqnr NaN` is no bound".to_owned()));
        }
        config.min_sqnr = self.min_sqnr.unwrap_or(config.min_sqnr);
        config.class_axis = self.class_axis;
        config.threads = self.threads.map(NonZeroUsize::get);
        let g = model.main();
        for name in &self.keep_float {
            config.keep_float = vec![name.clone()];
            if !g.ops().any(|o| config.keeps_float(&g.label(o))) {
                talk.say(format_args!("note: `--keep-float {name}` matches no node of the model"));
            }
        }
        config.keep_float = self.keep_float.clone();
        config.overrides = self.overrides(model, talk)?;
        Ok(config)
    }
}

impl CompileFlags {
    /// The configuration of a model that is to be trained: scales are planned, ranges of 4-bit weights have the least
    /// squared error, and nothing stays in float for accuracy, unless it is asked for.
    ///
    /// # Errors
    /// As [`CompileFlags::config`]; and for scales that are found in every run, which cannot be trained.
    pub(crate) fn training(&self, training: Training, model: &Model, talk: &Talk) -> Result<Config, Failure> {
        if self.scheme == Scheme::WeightOnly {
            return Err(Failure::with_help(
                "weights of blocks are not trained",
                "leave out `--scheme weight-only`; `--weight-bits 4` trains weights of 4 bits",
            ));
        }
        if self.is_dynamic() {
            return Err(Failure::with_help(
                "scales that are found in every run cannot be trained",
                "leave out `--scheme dynamic`",
            ));
        }
        let mut config = self.config(model, talk)?;
        config.scheme = Scheme::Static;
        config.training = Some(training);
        if self.weight_method.is_none() && training.weight_bits == WeightBits::Four {
            config.weight_method = WeightMethod::Mse;
        }
        config.min_sqnr = self.min_sqnr.unwrap_or(f64::NEG_INFINITY);
        Ok(config)
    }

    /// Overrides of a file, and those of the command line, which hold where both say something.
    ///
    /// # Errors
    /// If the file has no ranges for this model, or a pattern fits nothing in it.
    fn overrides(&self, model: &Model, talk: &Talk) -> Result<Vec<Override>, Failure> {
        let g = model.main();
        let mut all = Vec::new();
        if let Some(path) = &self.ranges {
            let (found, unknown) = encodings::overrides(path, g)?;
            talk.say(format_args!("ranges of {} tensors: `{}`", found.len(), path.display()));
            if unknown > 0 {
                talk.say(format_args!("note: {unknown} tensors of it are not in the model"));
            }
            all = found;
        }
        let mut misfit = misfits(&self.overrides, g);
        if !misfit.is_empty() {
            // A name may be one that rewriting makes.
            let mut fused = model.clone();
            squint::optimize(&mut fused, &Config::new(known_target(&self.target)?), &Hooks::default())?;
            let still = misfits(&self.overrides, fused.main());
            misfit.retain(|(pattern, _)| still.iter().any(|(p, _)| p == pattern));
        }
        if let Some((pattern, alike)) = misfit.into_iter().next() {
            let what = format!("`--override {pattern}` fits nothing in the model");
            return Err(match alike.is_empty() {
                true => Failure::new(what),
                false => Failure::with_help(what, format!("did you mean `{}`?", alike.join("`, `"))),
            });
        }
        all.extend(self.overrides.iter().cloned());
        Ok(all)
    }
}

impl DataFlags {
    /// Takes one sample less where an odd number is asked for, so that halves are what half the number would give.
    pub(crate) fn halve_evenly(&mut self) {
        let even = self.samples.and_then(|n| NonZeroUsize::new(n.get() & !1));
        self.samples = even.or(self.samples);
    }

    /// How many samples the data is cut down to, if it is.
    pub(crate) fn samples(&self) -> Option<usize> {
        self.samples.map(NonZeroUsize::get)
    }

    /// Opens the data; without any, says how to give some.
    ///
    /// # Errors
    /// If there is none, or it does not fit the model.
    pub(crate) fn open(&self, model: &Model, talk: &Talk) -> Result<Dataset, Failure> {
        self.open_for(
            "static quantization needs calibration data: ranges of activations are measured on it",
            model,
            talk,
        )
    }

    /// Opens the data; without any, says what it is needed for, and how to give some.
    ///
    /// # Errors
    /// If there is none, or it does not fit the model.
    pub(crate) fn open_for(&self, need: &str, model: &Model, talk: &Talk) -> Result<Dataset, Failure> {
        if self.data.is_empty() {
            return Err(Failure::with_help(
                need,
                "give some typical inputs with `--data PATH`, for example a folder of images or an `.npz` file; \
                 64 to 500 samples are usual (`--scheme dynamic` needs none)",
            ));
        }
        let own = Preprocessing {
            resize: self.resize.or(self.letterbox.map(Resize::Letterbox)),
            crop: self.crop,
            scale: self.scale,
            mean: self.mean.clone(),
            std: self.std.clone(),
            channels: self.channels,
            layout: self.layout,
        };
        let preprocessing = match self.preset {
            Some(preset) => own.over(preset.preprocessing()),
            None => own,
        };
        let options = DataOptions {
            paths: self.data.clone(),
            samples: self.samples(),
            preprocessing,
            tokenizer: self.tokenizer.clone(),
            max_length: self.max_length.map(NonZeroUsize::get),
        };
        let data = Dataset::open(model, &options)?;
        talk.notes(data.notes());
        talk.detail(format_args!(
            "data: {} of {} samples; {}",
            data.len(),
            data.total(),
            data.preprocessing()
        ));
        Ok(data)
    }
}

/// The name of a target, if there is one of that name; of the one for this machine for `host`.
///
/// # Errors
/// The names there are.
pub(crate) fn known_target(name: &str) -> Result<&str, Failure> {
    if name == "host" {
        return Ok(host().name());
    }
    if target(name).is_some() {
        return Ok(name);
    }
    let known: Vec<String> = targets().map(|t| format!("`{}` ({})", t.name(), t.description())).collect();
    Err(Failure::with_help(
        format!("there is no target `{name}`"),
        format!("there are `host` (that of this machine), {}", known.join(", ")),
    ))
}

/// The method of a name, if it is one for weights.
fn weight_method(text: &str) -> Result<WeightMethod, String> {
    let method: Method = text.parse().map_err(|e| format!("{e}"))?;
    match suits_weights(method) {
        true => Ok(method),
        false => Err(format!("`{method}` is over samples, which there are none of in weights")),
    }
}

/// The preset of a name.
fn preset(name: &str) -> Result<Preset, String> {
    let known = || PRESETS.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
    Preset::find(name).ok_or_else(|| format!("there is no preset `{name}`; there are {}", known()))
}
