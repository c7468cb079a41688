//! `CNI_ARGS`: `K=V;K=V`.

/// Invalid `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    #[error("ARGS: invalid pair {0:?}")]
    Pair(String),
    #[error("ARGS: unknown args [{0}]")]
    Unknown(String),
    #[error("ARGS: error parsing value of pair {pair:?}: boolean unmarshal error: invalid input {value}")]
    Boolean { pair: String, value: String },
}

/// Returns the last value of `key`, the only key that a plugin knows besides `IgnoreUnknown`.
///
/// Compatibility: any other key is an error unless `IgnoreUnknown` is true, and keys are case-sensitive.
pub(crate) fn value<'a>(args: &'a str, key: &str) -> Result<Option<&'a str>, ArgsError> {
    if args.is_empty() {
        return Ok(None);
    }
    let (mut found, mut ignore_unknown, mut unknown) = (None, false, Vec::new());
    for pair in args.split(';') {
        let parts: Vec<&str> = pair.split('=').collect();
        let [name, value] = parts[..] else { return Err(ArgsError::Pair(pair.to_owned())) };
        if name == key {
            found = Some(value);
        } else if name == "IgnoreUnknown" {
            ignore_unknown = match value.to_lowercase().as_str() {
                "1" | "true" => true,
                "0" | "false" => false,
                _ => return Err(ArgsError::Boolean { pair: pair.to_owned(), value: value.to_owned() }),
            };
        } else {
            unknown.push(format!("{pair:?}"));
        }
    }
    if unknown.is_empty() || ignore_unknown { Ok(found) } else { Err(ArgsError::Unknown(unknown.join(" "))) }
}

#[cfg(test)]
mod tests;
