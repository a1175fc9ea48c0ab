//! Writes images: the configuration, and an archive that podman, skopeo, buildah and umoci read.
//!
//! Format: OCI image specification 1.0, "Image Configuration", "Image Manifest", "Image Layout", the last as a tar: what
//! skopeo calls `oci-archive:`. `index.json` names the manifest by its digest, the manifest the configuration and the
//! layers; each is a blob, a file with its SHA-256 for a name. The layers are plain tars, so that the digest of the
//! blob is also the diff_id in the configuration. Entry: `config_json`, `write_archive`.
//!
//! Invariant: the same image, time included, gives the same bytes; and what is read comes first, so that who opens the
//! archive need not go through the layers.
//!
//! Left out: compression, several platforms, signatures; the history says only who made the layers and when.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::digest::{hex, sha256};
use super::tar::Member;
use super::write::{Writer, file};
use super::{Config, Sha256};
use crate::error::{Error, Result};
use crate::output::{join, rfc3339, string};

/// A layer: a plain tar, which is a file or a part of one.
pub struct Layer<'a> {
    pub file: &'a File,
    /// Of the first byte in the file, and bytes from there.
    pub offset: u64,
    pub size: u64,
    pub digest: Sha256,
}

/// The architecture mini was built for, and its variant or nothing, in Go's names as the specification wants them.
pub fn platform() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "x86_64" => ("amd64", ""),
        "x86" => ("386", ""),
        "aarch64" => ("arm64", ""),
        "arm" => ("arm", "v7"),
        "powerpc64" => ("ppc64le", ""),
        "loongarch64" => ("loong64", ""),
        same => (same, ""), // riscv64 and s390x
    }
}

/// The configuration blob of an image for Linux. `platform` is architecture and variant, as [`platform`] has them;
/// `created` is in seconds since 1970; `created_by` made the layers, and `diff_ids` are those, the lowest first.
pub fn config_json(
    config: &Config,
    platform: (&str, &str),
    created: u64,
    created_by: &str,
    diff_ids: &[Sha256],
) -> String {
    let strings = |items: &[Vec<u8>]| {
        let items: Vec<_> = items.iter().map(|item| string(item)).collect();
        join(["[", "]"], &items)
    };
    let keys = |items: &[Vec<u8>]| {
        let items: Vec<_> = items.iter().map(|item| pair(item, "{}")).collect();
        join(["{", "}"], &items)
    };
    let (mut env, mut labels) = (Vec::new(), Vec::new());
    for (name, value) in &config.env {
        env.push([name, &b"="[..], value].concat());
    }
    for (name, value) in &config.labels {
        labels.push(pair(name, &string(value)));
    }
    let run = object(&[
        ("User", string(&config.user)),
        ("ExposedPorts", keys(&config.exposed_ports)),
        ("Env", strings(&env)),
        ("Entrypoint", strings(&config.entrypoint)),
        ("Cmd", strings(&config.cmd)),
        ("Volumes", keys(&config.volumes)),
        ("WorkingDir", string(&config.workdir)),
        ("Labels", join(["{", "}"], &labels)),
        ("StopSignal", string(&config.stop_signal)),
    ]);
    let created = string(rfc3339(created).as_bytes());
    let created_by = string(created_by.as_bytes());
    let history = object(&[("created", created.clone()), ("created_by", created_by)]);
    let (mut ids, mut histories) = (Vec::new(), Vec::new());
    for id in diff_ids {
        ids.push(["\"sha256:", &hex(id), "\""].concat());
        histories.push(history.clone());
    }
    let ids = join(["[", "]"], &ids);
    object(&[
        ("created", created),
        ("architecture", string(platform.0.as_bytes())),
        ("variant", string(platform.1.as_bytes())),
        ("os", string(b"linux")),
        ("config", run),
        (
            "rootfs",
            ["{\"type\":\"layers\",\"diff_ids\":", &ids, "}"].concat(),
        ),
        ("history", join(["[", "]"], &histories)),
    ])
}

/// Writes an image archive and returns its size in bytes. `config` is from [`config_json`], with these layers' digests;
/// `name` is what the image is called (`localhost/x:latest`), or empty.
pub fn write_archive(
    mut writer: Writer<'_>,
    config: &str,
    layers: &[Layer<'_>],
    name: &[u8],
) -> Result<u64> {
    let mut layer_list = Vec::new();
    for layer in layers {
        layer_list.push(descriptor("layer.v1.tar", &layer.digest, layer.size, ""));
    }
    let digest = sha256(config.as_bytes());
    let (config_blob, size) = (blob(&digest), config.len() as u64);
    let described_by = descriptor("config.v1+json", &digest, size, "");
    let layer_list = join(["[", "]"], &layer_list);
    let manifest = document(
        "manifest.v1+json\",\"config\":",
        &described_by,
        &[",\"layers\":", &layer_list].concat(),
    );
    let annotations = match name {
        b"" => String::new(),
        _ => [
            ",\"annotations\":{\"org.opencontainers.image.ref.name\":",
            &string(name),
            "}",
        ]
        .concat(),
    };
    let digest = sha256(manifest.as_bytes());
    let size = manifest.len() as u64;
    let listed = descriptor("manifest.v1+json", &digest, size, &annotations);
    let index = document("index.v1+json\",\"manifests\":[", &listed, "]");
    for (path, text) in [
        ("oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}"),
        ("index.json", &index),
        (&blob(&digest), &manifest),
        (&config_blob, config),
    ] {
        let mut rest = text.as_bytes();
        member(&mut writer, path, rest.len() as u64, &mut |buffer| {
            let (now, later) = rest.split_at(buffer.len().min(rest.len()));
            buffer[..now.len()].copy_from_slice(now);
            rest = later;
            Ok(now.len())
        })?;
    }
    for (index, layer) in layers.iter().enumerate() {
        // The same layer may come twice; a blob is there once.
        if layers[..index]
            .iter()
            .all(|other| other.digest != layer.digest)
        {
            let path = blob(&layer.digest);
            let mut offset = layer.offset;
            member(&mut writer, &path, layer.size, &mut |buffer| {
                let count = (layer.file.read_at(buffer, offset))
                    .map_err(|error| Error::io("read", &path, error))?;
                offset += count as u64;
                Ok(count)
            })?;
        }
    }
    writer.end()
}

const TYPE: &str = "application/vnd.oci.image.";

fn document(kind: &str, first: &str, rest: &str) -> String {
    let start = "{\"schemaVersion\":2,\"mediaType\":\"";
    [start, TYPE, kind, first, rest, "}"].concat()
}

fn descriptor(kind: &str, digest: &Sha256, size: u64, more: &str) -> String {
    let digest = hex(digest);
    format!(
        "{{\"mediaType\":\"{TYPE}{kind}\",\"digest\":\"sha256:{digest}\",\"size\":{size}{more}}}"
    )
}

fn blob(digest: &Sha256) -> String {
    format!("blobs/sha256/{}", hex(digest))
}

fn member(
    writer: &mut Writer<'_>,
    path: &str,
    size: u64,
    read: &mut dyn FnMut(&mut [u8]) -> Result<usize>,
) -> Result<()> {
    writer.member(&Member {
        mode: 0o644,
        stored: size,
        ..file(path.as_bytes())
    })?;
    writer.data(size, path.as_bytes(), read)
}

/// An object of these members, whose values are JSON, without those that are empty.
fn object(members: &[(&str, String)]) -> String {
    let mut pairs = Vec::new();
    for (key, value) in members {
        if !matches!(&value[..], "\"\"" | "[]" | "{}") {
            pairs.push(pair(key.as_bytes(), value));
        }
    }
    join(["{", "}"], &pairs)
}

/// A member of an object. `value` is JSON.
fn pair(key: &[u8], value: &str) -> String {
    string(key) + ":" + value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_what_there_is_and_no_more() {
        let words = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let config = Config {
            entrypoint: words(&["/bin/sh", "-c"]),
            env: vec![(b"A".to_vec(), b"\"\xff".to_vec())],
            labels: vec![(b"empty".to_vec(), Vec::new())],
            exposed_ports: words(&["80/tcp"]),
            ..Config::default()
        };
        let id = [0xab; 32];
        let digest = "ab".repeat(32);
        assert_eq!(
            config_json(&config, ("arm", "v7"), 0, "mini commit", &[id, id]),
            format!(
                "{{\"created\":\"1970-01-01T00:00:00Z\",\"architecture\":\"arm\",\"variant\":\"v7\",\"os\":\"linux\",\
                 \"config\":{{\"ExposedPorts\":{{\"80/tcp\":{{}}}},\"Env\":[\"A=\\\"\u{fffd}\"],\
                 \"Entrypoint\":[\"/bin/sh\",\"-c\"],\"Labels\":{{\"empty\":\"\"}}}},\
                 \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"sha256:{digest}\",\"sha256:{digest}\"]}},\
                 \"history\":[{0},{0}]}}",
                "{\"created\":\"1970-01-01T00:00:00Z\",\"created_by\":\"mini commit\"}"
            )
        );
        let bare = config_json(&Config::default(), ("amd64", ""), 0, "", &[]);
        let rest = "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}";
        assert!(
            bare.ends_with(&format!("\"os\":\"linux\",{rest}")),
            "{bare}"
        );
    }
}
