//! Pages of lists and the errors that every service answers with. It knows no list.

use plimsoll_proto::parse::ParseError;
use std::collections::HashMap;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Name under which reasons are told apart from those of other services.
pub const ERROR_DOMAIN: &str = "plimsoll";

/// Makes a status with its one `ErrorInfo`.
pub fn status(code: Code, reason: &'static str, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, HashMap::new());
    Status::with_error_details(code, message.into(), details)
}

/// Says that there is no room now, and when to come again.
pub fn busy(wait: Duration, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_retry_info(Some(wait));
    Status::with_error_details(Code::ResourceExhausted, message.into(), details)
}

/// Renders a field that was refused.
pub fn refused(error: &ParseError) -> Status {
    status(Code::InvalidArgument, "INVALID_FIELD", error.to_string())
}

/// Reads how many items a page may have; 0 means the usual.
pub fn size(page_size: i32, (usual, max): (usize, usize)) -> Result<usize, ParseError> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(usual),
        Ok(size) if size <= max => Ok(size),
        _ => Err(ParseError::new(
            "page_size",
            format!("must lie in 0 to {max}"),
        )),
    }
}

/// Reads a token: the place where the page begins.
pub fn begin(token: &str) -> Result<usize, ParseError> {
    if token.is_empty() {
        return Ok(0);
    }
    token.parse().map_err(|_| {
        ParseError::new(
            "page_token",
            "is none that an answer gave; leave it empty to begin",
        )
    })
}

/// Cuts a page out of a whole list; the token is the place where the next page begins.
pub fn page<T>(
    all: Vec<T>,
    page_size: i32,
    token: &str,
    limits: (usize, usize),
) -> Result<(Vec<T>, String), ParseError> {
    let size = size(page_size, limits)?;
    let begin = begin(token)?;
    let count = all.len();
    let items: Vec<T> = all.into_iter().skip(begin).take(size).collect();
    let end = begin.saturating_add(items.len());
    let next = if end < count {
        end.to_string()
    } else {
        String::new()
    };
    Ok((items, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_together_are_the_list() {
        let all: Vec<u32> = (0..25).collect();
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let (items, next) = page(all.clone(), 10, &token, (100, 1000)).unwrap();
            seen.extend(items);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn a_page_beyond_the_limit_and_a_made_up_token_are_refused() {
        assert_eq!(
            page(vec![1], 1001, "", (100, 1000)).unwrap_err().field,
            "page_size"
        );
        assert_eq!(
            page(vec![1], -1, "", (100, 1000)).unwrap_err().field,
            "page_size"
        );
        assert_eq!(
            page(vec![1], 1, "x", (100, 1000)).unwrap_err().field,
            "page_token"
        );
    }
}
