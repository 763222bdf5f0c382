//! A switch of a node, and who set it: what the operator said of a node holds against what is said of the one above it.

/// Whether something is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Setting {
    /// Nobody has said anything: it is off.
    #[default]
    Unsaid,
    /// The node above it has it so.
    Inherited(bool),
    /// It was said of the node itself.
    Said(bool),
}

impl Setting {
    /// What was said, or else what was said before in the same command.
    #[must_use]
    pub fn or_said(self, before: Self) -> Self {
        match (self, before) {
            (Self::Unsaid | Self::Inherited(_), Self::Said(_)) => before,
            _ => self,
        }
    }

    /// Whether it is on.
    pub fn is_on(self) -> bool {
        matches!(self, Self::Inherited(true) | Self::Said(true))
    }

    /// That of a node which is described with one above it. What it had from that one stays as long as nothing is said of
    /// either, as in QEMU.
    #[must_use]
    pub fn under(self, above: Self) -> Self {
        match (self, above) {
            (Self::Said(_), _) | (_, Self::Unsaid) => self,
            (_, Self::Said(on) | Self::Inherited(on)) => Self::Inherited(on),
        }
    }
}

impl From<bool> for Setting {
    fn from(on: bool) -> Self {
        Self::Said(on)
    }
}

impl From<Option<bool>> for Setting {
    fn from(said: Option<bool>) -> Self {
        said.map_or(Self::Unsaid, Self::Said)
    }
}
