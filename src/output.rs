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
                '\0'..' ' => json.push_str(&format!("\\u{:04x}", u32::from(c))),
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
