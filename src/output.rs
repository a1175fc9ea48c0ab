//! What commands print: tables, and JSON as it is written.

/// Rows below their heads, in columns two spaces apart.
#[cfg(any(feature = "images", feature = "life"))]
pub fn table<const N: usize>(heads: [&str; N], mut rows: Vec<[String; N]>) -> String {
    rows.insert(0, heads.map(str::to_owned));
    let rows: Vec<&[String]> = rows.iter().map(|row| row.as_slice()).collect();
    columns(&rows)
}

/// There is one copy of this.
#[cfg(any(feature = "images", feature = "life"))]
fn columns(rows: &[&[String]]) -> String {
    let mut widths = vec![0; rows[0].len()];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(*row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(cell);
            for _ in cell.chars().count()..width + 2 {
                text.push(' ');
            }
        }
        text.truncate(text.trim_ascii_end().len());
        text.push('\n');
    }
    text
}

/// A string as JSON has it, with its quotes. JSON is UTF-8: other bytes become U+FFFD.
pub fn string(text: &[u8]) -> String {
    let mut json = String::from("\"");
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => json.extend(['\\', c]),
                // Those behind ASCII drive terminals as well, or turn the direction of what follows.
                '\0'..' '
                | '\u{7f}'..='\u{9f}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}' => json.push_str(&format!("\\u{:04x}", u32::from(c))),
                _ => json.push(c),
            }
        }
        if !chunk.invalid().is_empty() {
            json.push('\u{fffd}');
        }
    }
    json.push('"');
    json
}

/// An array or object, as the brackets are, of what is JSON already.
pub fn join(brackets: [&str; 2], items: &[String]) -> String {
    [brackets[0], &items.join(","), brackets[1]].concat()
}

/// What is not known is null.
#[cfg(feature = "life")]
pub fn or_null<T>(value: &Option<T>, show: impl Fn(&T) -> String) -> String {
    value.as_ref().map_or("null".into(), show)
}

/// Seconds since 1970 as in `2026-11-22T10:29:54Z` (RFC 3339, which has years of four digits).
#[cfg(any(feature = "images", feature = "life"))]
pub fn rfc3339(seconds: u64) -> String {
    let seconds = seconds.min(253_402_300_799);
    let (mut day, second) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut month) = (1970, 1);
    while day >= days_of(year, month) {
        day -= days_of(year, month);
        (year, month) = (year + month / 12, month % 12 + 1);
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!(
        "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z",
        day + 1
    )
}

#[cfg(any(feature = "images", feature = "life"))]
pub fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(any(feature = "images", feature = "life"))]
pub fn days_of(year: u64, month: u64) -> u64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u64::from(leap(year)),
        _ => 31,
    }
}

#[cfg(all(test, any(feature = "images", feature = "life")))]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_795_343_394, "2026-11-22T10:29:54Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), date);
        }
    }
}
