//! A flag of flanneld as data, for its parser, `--help`, flannelctl and the man page.

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Name without dashes.
    pub name: &'static str,
    /// Form of its value.
    pub kind: Kind,
    /// Name of the value in help texts; empty for switches.
    pub value: &'static str,
    /// The value if none is given.
    pub default: &'static str,
    /// One line for help texts.
    pub help: &'static str,
    /// Not a flag of the Go flanneld.
    pub extension: bool,
}

/// The form of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// True or false. The only kind that never takes the next word.
    Switch,
    /// An integer in Go's syntax.
    Integer,
    /// An integer in decimal digits (klog's `-v`).
    Level,
    /// Any text.
    Text,
    /// Text that is not shown.
    Secret,
    /// Text; repeating the flag appends.
    List,
}

impl Flag {
    /// Returns a flag whose value is any text.
    #[must_use]
    pub const fn text(
        name: &'static str,
        value: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self { name, kind: Kind::Text, value, default, help, extension: false }
    }

    /// Returns the flag with a value of another form.
    #[must_use]
    pub const fn with_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// Returns the flag as one that Go flannel does not have.
    #[must_use]
    pub const fn extension(self) -> Self {
        Self { extension: true, ..self }
    }

    /// Returns the name as users write it.
    #[must_use]
    pub fn dashed(&self) -> String {
        format!("{}{}", if self.name.len() == 1 { "-" } else { "--" }, self.name)
    }

    /// Returns the environment variable that replaces the flag.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("FLANNELD_{}", self.name.to_uppercase().replace(['-', '.'], "_"))
    }
}
