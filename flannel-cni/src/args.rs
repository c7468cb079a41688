//! `CNI_ARGS`: `K=V;K=V`.

use crate::error::CniError;

/// Returns the last value of `key`, the only key that a plugin knows besides `IgnoreUnknown`.
///
/// Compatibility: any other key is an error unless `IgnoreUnknown` is true, and keys are case-sensitive.
pub(crate) fn value<'a>(args: &'a str, key: &str) -> Result<Option<&'a str>, CniError> {
    if args.is_empty() {
        return Ok(None);
    }
    let (mut found, mut ignore_unknown, mut unknown) = (None, false, Vec::new());
    for pair in args.split(';') {
        let parts: Vec<&str> = pair.split('=').collect();
        let [name, value] = parts[..] else {
            return Err(CniError::internal(format!("ARGS: invalid pair {pair:?}")));
        };
        if name == key {
            found = Some(value);
        } else if name == "IgnoreUnknown" {
            ignore_unknown = match value.to_lowercase().as_str() {
                "1" | "true" => true,
                "0" | "false" => false,
                _ => {
                    let problem = format!("boolean unmarshal error: invalid input {value}");
                    let msg = format!("ARGS: error parsing value of pair {pair:?}: {problem}");
                    return Err(CniError::internal(msg));
                }
            };
        } else {
            unknown.push(format!("{pair:?}"));
        }
    }
    if unknown.is_empty() || ignore_unknown {
        return Ok(found);
    }
    Err(CniError::internal(format!("ARGS: unknown args [{}]", unknown.join(" "))))
}

#[cfg(test)]
mod tests;
