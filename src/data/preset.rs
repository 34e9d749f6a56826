//! Preprocessing by name, for families of models that were trained with the same.
//!
//! Each is written as the flags that it stands for, and names the code whose numbers these are. Resizing is
//! squint's own (see `docs/data.md`), so that pixels may differ from the source's by one of 255 levels; for the
//! range of a tensor this does not matter.

use super::Preprocessing;

/// Preprocessing under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// What it is called.
    pub name: &'static str,
    /// Which models it is for, and whose numbers it has.
    pub source: &'static str,
    /// The flags that it stands for.
    pub flags: &'static [(&'static str, &'static str)],
}

/// All presets.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "imagenet",
        source: "torchvision: `transforms._presets.ImageClassification`; also timm and the ONNX model zoo",
        flags: &[
            ("resize", "256"),
            ("crop", "224x224"),
            ("channels", "rgb"),
            ("scale", "1/255"),
            ("mean", "0.485,0.456,0.406"),
            ("std", "0.229,0.224,0.225"),
        ],
    },
    Preset {
        name: "imagenet-caffe",
        source: "Keras: `imagenet_utils.preprocess_input(mode=\"caffe\")`, of VGG and the first ResNets",
        flags: &[
            ("resize", "256"),
            ("crop", "224x224"),
            ("channels", "bgr"),
            ("scale", "1"),
            ("mean", "103.939,116.779,123.68"),
        ],
    },
    Preset {
        name: "mobilenet-tf",
        source: "Keras: `imagenet_utils.preprocess_input(mode=\"tf\")`, of MobileNet and Inception",
        flags: &[
            ("resize", "256"),
            ("crop", "224x224"),
            ("channels", "rgb"),
            ("scale", "1/127.5"),
            ("mean", "1"),
        ],
    },
    Preset {
        name: "yolo",
        source: "ultralytics: `data.augment.LetterBox`, of YOLOv5, YOLOv8 and later",
        flags: &[("letterbox", "input,center,114"), ("channels", "rgb"), ("scale", "1/255")],
    },
    Preset {
        name: "yolox",
        source: "YOLOX: `data.data_augment.preproc`, since version 0.1.1",
        flags: &[("letterbox", "input,corner,114"), ("channels", "bgr"), ("scale", "1")],
    },
];

impl Preset {
    /// The preset of a name.
    pub fn find(name: &str) -> Option<Preset> {
        PRESETS.iter().copied().find(|p| p.name == name)
    }

    /// What it stands for.
    pub fn preprocessing(&self) -> Preprocessing {
        let mut out = Preprocessing::default();
        for (flag, value) in self.flags {
            let numbers = || value.split(',').map(|x| x.parse().expect("invariant: presets are numbers"));
            match *flag {
                "resize" => out.resize = value.parse().ok(),
                "letterbox" => out.resize = value.parse().ok().map(super::Resize::Letterbox),
                "crop" => out.crop = value.parse().ok(),
                "scale" => out.scale = value.parse().ok(),
                "channels" => out.channels = value.parse().ok(),
                "mean" => out.mean = numbers().collect(),
                "std" => out.std = numbers().collect(),
                _ => unreachable!("invariant: presets name flags"),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Channels, Resize, Scale};
    use super::*;

    #[test]
    fn every_flag_of_a_preset_has_an_effect() {
        for preset in PRESETS {
            let p = preset.preprocessing();
            let set = [
                p.resize.is_some(),
                p.crop.is_some(),
                p.scale.is_some(),
                p.channels.is_some(),
                !p.mean.is_empty(),
                !p.std.is_empty(),
            ];
            assert_eq!(set.iter().filter(|s| **s).count(), preset.flags.len(), "{}", preset.name);
        }
    }

    #[test]
    fn values_are_those_of_the_source() {
        let table = |name: &str| Preset::find(name).unwrap().preprocessing().table(3).unwrap();
        let last = |name: &str| table(name).iter().map(|c| c[255]).collect::<Vec<_>>();
        let near = |a: &[f32], b: [f64; 3]| a.iter().zip(b).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6);
        assert!(near(
            &last("imagenet"),
            [(1.0 - 0.485) / 0.229, (1.0 - 0.456) / 0.224, (1.0 - 0.406) / 0.225]
        ));
        assert_eq!(
            last("imagenet-caffe"),
            [255.0 - 103.939, 255.0 - 116.779, 255.0 - 123.68].map(|x: f64| x as f32)
        );
        assert_eq!((last("mobilenet-tf"), table("mobilenet-tf")[0][0]), (vec![1.0; 3], -1.0));
        assert_eq!((last("yolo"), last("yolox")), (vec![1.0; 3], vec![255.0; 3]));
    }

    #[test]
    fn flags_are_stronger() {
        let own = Preprocessing { resize: "232".parse().ok(), std: vec![1.0], ..Preprocessing::default() };
        let p = own.over(Preset::find("imagenet").unwrap().preprocessing());
        assert_eq!((p.resize, p.std), (Some(Resize::ShortSide(232)), vec![1.0]));
        assert_eq!(
            (p.channels, p.mean.len(), p.scale),
            (Some(Channels::Rgb), 3, "1/255".parse::<Scale>().ok())
        );
    }
}
