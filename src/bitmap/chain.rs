//! The rules by which libvirt makes a backup from a bitmap that goes through a chain of images.
//!
//! A bitmap records in one image; when an overlay is put on top, one of the same name goes on there. What has changed
//! since it was begun is what all of them mark together, if none is missing in between, none missed a write and none is
//! out of date. Knows no files.

/// What a layer has of the bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Nothing.
    Missing,
    /// A bitmap that records.
    Recording,
    /// A bitmap that does not.
    Disabled,
    /// A bitmap that was not stored when the image was used last.
    Inconsistent,
}

/// What is wrong, at the layer of this number from the top on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Rule 1: the top image has it.
    NotOnTop,
    /// Rule 2: the images that have it follow each other.
    Gap(usize),
    /// Rule 3: it records in each.
    NotRecording(usize),
    /// Rule 4: it is consistent in each.
    Inconsistent(usize),
}

impl Layer {
    /// For people and programs.
    pub fn text(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Recording => "recording",
            Self::Disabled => "disabled",
            Self::Inconsistent => "inconsistent",
        }
    }
}

impl Broken {
    /// The number of the rule.
    pub fn rule(self) -> u64 {
        match self {
            Self::NotOnTop => 1,
            Self::Gap(_) => 2,
            Self::NotRecording(_) => 3,
            Self::Inconsistent(_) => 4,
        }
    }

    /// Where.
    pub fn layer(self) -> usize {
        match self {
            Self::NotOnTop => 0,
            Self::Gap(layer) | Self::NotRecording(layer) | Self::Inconsistent(layer) => layer,
        }
    }

    /// What follows, and what to do.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotOnTop => "the top image does not have it: add a bitmap and begin with a full backup",
            Self::Gap(_) => {
                "it is here and not in the image above: what changed there is unknown; begin with a full backup"
            }
            Self::NotRecording(_) => "it is disabled here: it may have missed writes; begin with a full backup",
            Self::Inconsistent(_) => {
                "it was not stored when the image was last in use: remove it and begin with a full backup"
            }
        }
    }
}

/// The rule that a chain breaks, looked for in the order of the rules; layers are from the top on.
///
/// # Errors
/// What is wrong.
pub fn check(layers: &[Layer]) -> Result<(), Broken> {
    let find = |from: usize, wanted: &dyn Fn(Layer) -> bool| {
        layers.iter().skip(from).position(|layer| wanted(*layer)).map(|at| from + at)
    };
    let end = find(0, &|layer| layer == Layer::Missing).unwrap_or(layers.len());
    if end == 0 {
        return Err(Broken::NotOnTop);
    }
    let broken = find(end, &|layer| layer != Layer::Missing).map(Broken::Gap);
    let broken = broken.or_else(|| find(0, &|layer| layer == Layer::Disabled).map(Broken::NotRecording));
    let broken = broken.or_else(|| find(0, &|layer| layer == Layer::Inconsistent).map(Broken::Inconsistent));
    broken.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Layers by the first letters of their states.
    fn layers(text: &str) -> Vec<Layer> {
        let layer = |letter| match letter {
            'R' => Layer::Recording,
            'D' => Layer::Disabled,
            'I' => Layer::Inconsistent,
            _ => Layer::Missing,
        };
        text.chars().map(layer).collect()
    }

    #[test]
    fn a_bitmap_is_good_down_to_where_it_began() {
        for valid in ["R", "RR", "RRR", "R-", "RR--", "RRR---"] {
            assert_eq!(check(&layers(valid)), Ok(()), "{valid}");
        }
    }

    #[test]
    fn the_first_rule_that_is_broken_is_named_with_its_layer() {
        for (chain, broken) in [
            ("", Broken::NotOnTop),
            ("-", Broken::NotOnTop),
            ("-R", Broken::NotOnTop),
            ("-I", Broken::NotOnTop),
            ("R-R", Broken::Gap(2)),
            ("R--RR", Broken::Gap(3)),
            ("R-I", Broken::Gap(2)),
            ("D-R", Broken::Gap(2)),
            ("RD", Broken::NotRecording(1)),
            ("RID", Broken::NotRecording(2)),
            ("DI--", Broken::NotRecording(0)),
            ("RRI", Broken::Inconsistent(2)),
            ("IR-", Broken::Inconsistent(0)),
        ] {
            assert_eq!(check(&layers(chain)), Err(broken), "{chain}");
        }
    }

    /// As libvirt walks from the top on (`qemuBlockBitmapChainIsValid`).
    fn walk(layers: &[Layer]) -> bool {
        let (mut found, mut ended) = (false, false);
        for layer in layers {
            match layer {
                Layer::Missing if found => ended = true,
                Layer::Recording if !ended => found = true,
                _ => return false,
            }
        }
        found
    }

    #[test]
    fn what_libvirt_takes_is_valid_and_nothing_else() {
        let mut chains = vec![String::new()];
        for _ in 0..6 {
            let longer = |chain: &String| ['R', 'D', 'I', '-'].map(|layer| format!("{chain}{layer}"));
            chains = chains.iter().flat_map(longer).collect();
            for chain in &chains {
                assert_eq!(check(&layers(chain)).is_ok(), walk(&layers(chain)), "{chain}");
            }
        }
        assert_eq!(chains.len(), 4096);
    }
}
