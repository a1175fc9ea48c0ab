//! Feeds any text to what reads an image: the first byte says whether as a configuration, a manifest.json or the index of
//! an OCI archive, or as the archive itself. An error is one line; an image's layers lie inside the archive.
#![no_main]

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Mutex;

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/error.rs"]
#[allow(dead_code)]
mod error;
#[path = "../../../src/image/mod.rs"]
#[allow(dead_code)]
mod image;
#[path = "../../../src/json.rs"]
#[allow(dead_code)]
mod json;
#[path = "../../../src/output.rs"]
#[allow(dead_code)]
mod output;
use image::archive::{Opened, Wanted, open_file};
use image::{Layer, digest, manifest};

fn member(archive: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut block = [0; 512];
    let size = format!("{:011o}", data.len());
    for (at, field) in [
        (0, name.as_bytes()),
        (100, b"0000644"),
        (124, size.as_bytes()),
        (148, b"        "),
    ] {
        block[at..at + field.len()].copy_from_slice(field);
    }
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    archive.extend(block);
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// An archive in which the text is the first of these documents, and the rest is in order.
fn archive(document: u8, text: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    member(&mut archive, "oci-layout", b"{}");
    let layer = digest::hex(&digest::sha256(b"layer"));
    member(&mut archive, &format!("blobs/sha256/{layer}"), b"layer");
    if document == 0 {
        member(&mut archive, "manifest.json", text);
        member(&mut archive, "layer.tar", b"layer");
        let config = format!(r#"{{"rootfs":{{"diff_ids":["sha256:{layer}"]}}}}"#);
        member(&mut archive, "config.json", config.as_bytes());
        return archive;
    }
    let mut blob = |media_type: &str, text: &[u8]| {
        let digest = digest::hex(&digest::sha256(text));
        member(&mut archive, &format!("blobs/sha256/{digest}"), text);
        let size = text.len();
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{media_type}","digest":"sha256:{digest}","size":{size}}}"#
        )
    };
    let config = format!(r#"{{"architecture":"x","rootfs":{{"diff_ids":["sha256:{layer}"]}}}}"#);
    let config = blob(
        "config.v1+json",
        if document == 1 {
            text
        } else {
            config.as_bytes()
        },
    );
    let layer = blob("layer.v1.tar", b"layer");
    let manifest = format!(r#"{{"config":{config},"layers":[{layer}]}}"#);
    let manifest = blob(
        "manifest.v1+json",
        if document == 2 {
            text
        } else {
            manifest.as_bytes()
        },
    );
    let index = format!(r#"{{"manifests":[{manifest}]}}"#);
    member(
        &mut archive,
        "index.json",
        if document == 3 {
            text
        } else {
            index.as_bytes()
        },
    );
    archive
}

fn check_line(error: &str) {
    assert!(
        !error.contains(char::is_control) && error.len() < 10_000,
        "{error:?}"
    );
}

static FILE: Mutex<Option<File>> = Mutex::new(None);

fuzz_target!(|data: &[u8]| {
    let Some((&document, data)) = data.split_first() else {
        return;
    };
    if let Err(error) = manifest::config(data) {
        check_line(&error);
    }
    let archive = match document % 5 {
        4 => data.to_vec(),
        document => archive(document, data),
    };
    let mut file = FILE.lock().unwrap();
    let file = file.get_or_insert_with(|| {
        let path = std::env::temp_dir().join(format!("mini-fuzz-{}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path);
        std::fs::remove_file(path).unwrap();
        file.unwrap()
    });
    file.rewind().unwrap();
    file.write_all(&archive).unwrap();
    file.set_len(archive.len() as u64).unwrap();
    let path = Path::new("/x.tar");
    for (platform, reference) in [(None, None), (Some("linux/arm"), None), (None, Some("a:1"))] {
        match open_file(
            file,
            path,
            path,
            &Wanted {
                platform,
                reference,
            },
        ) {
            Err(error) => check_line(&error.to_string()),
            Ok(Opened::Image(image)) => {
                assert!(!image.layers.is_empty());
                for layer in image.layers {
                    let Layer::Tar(tar) = layer else { continue };
                    let end = tar
                        .size
                        .map_or(Some(0), |size| tar.offset.checked_add(size));
                    assert!(end.unwrap() <= archive.len() as u64);
                }
            }
            Ok(_) => {}
        }
    }
});
