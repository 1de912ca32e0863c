//! How an error is told: once, where it is handled, with all its causes in one line.

/// Renders an error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the spool cannot be opened")]
    struct Outer(#[source] std::fmt::Error);

    #[test]
    fn an_error_is_told_with_its_causes_in_one_line() {
        let told = chain(&Outer(std::fmt::Error));
        assert!(told.starts_with("the spool cannot be opened: an error occurred"));
        assert!(!told.contains('\n'));
    }
}
