//! Reads what describes an image: from the list of images to the layers, the lowest first, and the configuration.
//!
//! Formats: OCI image specification 1.1 (image-layout.md, image-index.md, manifest.md, descriptor.md, config.md) and the
//! media types that Docker's registry had before; `docker save` (moby: image/spec, manifest.json). Docker 25 and later
//! writes both into one archive: then the OCI one is read, as it has digests.
//!
//! Entry: [`read`]; then `Reader::index`, `choose`, `manifest`; `Reader::saved`; [`config`].
//!
//! Invariants: every document has the size and the SHA-256 that the one before it says. Those of the layers are passed on
//! to who reads them. A digest is 64 hexadecimal digits or an error, so that it can be part of a path. Indexes nest at most
//! [`DEPTH`] deep, an image has at most [`LAYERS`] layers, a document at most 4 MiB (`blobs`).
//!
//! Left out: SHA-512, schema 1, encrypted layers, signatures, os.version and os.features, data inside a descriptor. A
//! docker-save archive has no digests but the configuration's diff_ids.

use super::archive::Wanted;
use super::blobs::{Blob, Blobs};
use super::digest::{hex, parse_digest, sha256};
use super::oci::platform;
use super::reader::show;
use super::{Config, Image, Layer, Sha256};
use crate::error::{Error, Result, error};
use crate::json::{Node, Value, parse};

/// Indexes in indexes; there is one in another when an image has several platforms.
const DEPTH: usize = 4;

/// As many as overlay takes (OVL_MAX_STACK); Docker builds 127.
const LAYERS: usize = 500;

/// As many names as an error lists.
const LISTED: usize = 8;

const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
/// Compression follows. What must not be distributed, or is "foreign", may be there all the same.
const TARS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

const ANNOTATIONS: [&str; 3] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
    "vnd.docker.reference.type",
];

/// The image that is wanted; None if these are no files of an image.
pub fn read(blobs: &Blobs, wanted: &Wanted) -> Result<Option<Image>> {
    let reader = Reader {
        blobs,
        reference: wanted.reference,
        platform: match wanted.platform {
            Some(text) => Platform::parse(text)?.with_variant(),
            None => Platform::machine(),
        },
    };
    let index = match blobs.find(b"oci-layout")? {
        Some(_) => reader.file("index.json")?,
        None => None,
    };
    // Other things are called manifest.json, too.
    let saved = reader.file("manifest.json")?;
    let saved = saved.filter(|value| Node::root(value).array().is_some());
    if let (Some(reason), true) = (blobs.damage(), index.is_some() || saved.is_some()) {
        return Err(reason.into());
    }
    let image = match (index, saved) {
        (None, None) => return Ok(None),
        (None, Some(saved)) => reader.saved(&saved)?,
        (Some(index), Some(saved)) if Node::root(&index).items("manifests")?.next().is_none() => {
            reader.saved(&saved)?
        }
        (Some(index), _) => reader.index("index.json", &index, 0)?,
    };
    match wanted.platform {
        // An image that is the only one may be for another machine, but not if the user said which.
        Some(_) if !fits(&image.config, &reader.platform) => {
            Err(reader.nothing(&[show(image.config.platform.as_bytes())]))
        }
        _ => Ok(Some(image)),
    }
}

/// A warning, if an image is for another kind of machine.
pub fn foreign(config: &Config) -> Option<String> {
    let machine = Platform::machine();
    if fits(config, &machine) {
        return None;
    }
    let (platform, machine) = (show(config.platform.as_bytes()), machine.text());
    Some(format!(
        "the image is for {platform}, this machine is {machine}"
    ))
}

/// Whether an image is for such a machine, or does not say.
fn fits(config: &Config, wanted: &Platform) -> bool {
    config.platform.is_empty()
        || Platform::parse(&config.platform).is_ok_and(|platform| platform.fits(wanted))
}

struct Reader<'a> {
    blobs: &'a Blobs<'a>,
    reference: Option<&'a str>,
    platform: Platform<'a>,
}

impl Reader<'_> {
    /// The image in an index, a document called `name`.
    fn index(&self, name: &str, index: &Value, depth: usize) -> Result<Image> {
        let chosen = self.choose(&Node::root(index), depth);
        let chosen = chosen.map_err(within(name))?;
        let (name, text) = (chosen.blob(), self.document(&chosen)?);
        let value = parse(&text).map_err(within(&name))?;
        match Node::root(&value).get("manifests") {
            None => self.manifest(&name, &value),
            Some(_) if depth < DEPTH => self.index(&name, &value, depth + 1),
            Some(_) => Err(error!("{name}: indexes nest more than {DEPTH} deep")),
        }
    }

    /// The manifest or index to go on with.
    fn choose<'v>(&self, index: &Node<'v, '_>, depth: usize) -> Result<Descriptor<'v>> {
        index.object()?;
        // The newest variant that this machine has; of equals the first (image-index.md), unless they are different images.
        let mut best: Option<Descriptor> = None;
        let (mut found, mut different) = (Vec::new(), false);
        let (mut names, mut platforms, mut unknown) = (Vec::new(), Vec::new(), None);
        for node in index.items("manifests")? {
            let descriptor = Descriptor::read(&node)?;
            let wanted = |reference| depth > 0 || descriptor.called(reference);
            if descriptor.attestation {
                continue;
            } else if !self.reference.is_none_or(wanted) {
                names.push(descriptor.name());
            } else if let Err(error) = descriptor.one_of(&node, &MANIFESTS, &[""]) {
                // Whatever else somebody keeps beside an image.
                unknown = Some(error);
            } else if let Some(other) = descriptor.platform
                && !other.fits(&self.platform)
            {
                platforms.push(show(other.text().as_bytes()));
            } else {
                let (name, variant) = (descriptor.name(), descriptor.variant());
                match &best {
                    Some(best) if variant < best.variant() => {}
                    Some(best) if variant == best.variant() => {
                        different |= descriptor.digest != best.digest;
                        found.push(name);
                    }
                    _ => (best, found, different) = (Some(descriptor), vec![name], false),
                }
            }
        }
        match best {
            Some(_) if different && depth == 0 => Err(several(&found)),
            Some(best) => Ok(best),
            None if !platforms.is_empty() => Err(self.nothing(&platforms)),
            None => Err(unknown.unwrap_or_else(|| self.missing(&names))),
        }
    }

    fn manifest(&self, name: &str, manifest: &Value) -> Result<Image> {
        let (described_by, layers) = descriptors(&Node::root(manifest)).map_err(within(name))?;
        let text = self.document(&described_by)?;
        let described = config(&text).map_err(within(&described_by.blob()))?;
        let mut found = Vec::new();
        for layer in &layers {
            found.push((self.find(layer)?, Some(layer.digest)));
        }
        image(name, described, found)
    }

    /// The image in a manifest.json, a list.
    fn saved(&self, list: &Value) -> Result<Image> {
        let name = "manifest.json";
        let (config_name, layer_names) =
            self.choose_saved(&Node::root(list)).map_err(within(name))?;
        let find = |file: &str| {
            let missing = || error!("{name}: {} is missing", show(file.as_bytes()));
            self.blobs.find(file.as_bytes())?.ok_or_else(missing)
        };
        let text = find(config_name)?.read();
        let described = text.and_then(|text| config(&text));
        let described = described.map_err(within(&show(config_name.as_bytes())))?;
        let mut layers = Vec::new();
        for name in layer_names {
            layers.push((find(name)?, None));
        }
        image(name, described, layers)
    }

    /// The names of the configuration and of the layers.
    fn choose_saved<'v>(&self, list: &Node<'v, '_>) -> Result<(&'v str, Vec<&'v str>)> {
        let (mut chosen, mut found, mut names) = (None, Vec::new(), Vec::new());
        for node in list.array().into_iter().flatten() {
            node.object()?;
            let config = node.need("Config")?.text()?;
            let tags = texts(&node, "RepoTags")?;
            let known =
                |reference| config == reference || tags.iter().any(|tag| called(tag, reference));
            let name = show(tags.first().unwrap_or(&config).as_bytes());
            if self.reference.is_none_or(known) {
                chosen = Some((config, texts(&node, "Layers")?));
                found.push(name);
            } else {
                names.push(name);
            }
        }
        match chosen {
            None => Err(self.missing(&names)),
            Some(_) if found.len() > 1 => Err(several(&found)),
            Some(chosen) => Ok(chosen),
        }
    }

    /// The JSON in a file, if there is one.
    fn file(&self, name: &str) -> Result<Option<Value>> {
        let Some(blob) = self.blobs.find(name.as_bytes())? else {
            return Ok(None);
        };
        let value = blob.read().and_then(|text| parse(&text));
        value.map(Some).map_err(within(name))
    }

    fn find(&self, descriptor: &Descriptor) -> Result<Blob> {
        let name = descriptor.blob();
        let path = ["blobs/sha256/", &hex(&descriptor.digest)].concat();
        match self.blobs.find(path.as_bytes())? {
            None => Err(error!("{name} is missing")),
            Some(blob) if blob.size != descriptor.size => {
                let (size, expected) = (blob.size, descriptor.size);
                Err(error!("{name} has {size} bytes, not {expected}"))
            }
            Some(blob) => Ok(blob),
        }
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let name = descriptor.blob();
        let text = self.find(descriptor)?.read().map_err(within(&name))?;
        match sha256(&text) {
            digest if digest == descriptor.digest => Ok(text),
            digest => Err(error!("{name} is damaged: it has sha256:{}", hex(&digest))),
        }
    }

    fn nothing(&self, platforms: &[String]) -> Error {
        let (wanted, others) = (self.platform.text(), listed(platforms));
        error!("it has nothing for {wanted}, but for {others}")
    }

    fn missing(&self, names: &[String]) -> Error {
        match self.reference {
            Some(name) if !names.is_empty() => {
                let (name, others) = (show(name.as_bytes()), listed(names));
                error!("it has no image {name}, but {others}")
            }
            _ => "it lists no image".into(),
        }
    }
}

fn several(names: &[String]) -> Error {
    error!("it has several images: {}", listed(names)).hint("choose one with ROOTFS#NAME")
}

fn listed(names: &[String]) -> String {
    let more = if names.len() > LISTED { ", …" } else { "" };
    names[..names.len().min(LISTED)].join(", ") + more
}

fn within(name: &str) -> impl Fn(Error) -> Error {
    move |reason| format!("{name}: {reason}").into()
}

/// Whether an image's name is what the user calls it: registry and path may be left out.
fn called(name: &str, reference: &str) -> bool {
    let rest = name.strip_suffix(reference);
    !reference.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

/// The configuration and the layers that a manifest names.
fn descriptors<'v>(root: &Node<'v, '_>) -> Result<(Descriptor<'v>, Vec<Descriptor<'v>>)> {
    root.object()?;
    let node = root.need("config")?;
    let config = Descriptor::read(&node)?;
    config.one_of(&node, &CONFIGS, &[""])?;
    root.need("layers")?;
    let mut layers = Vec::new();
    for node in root.items("layers")? {
        let layer = Descriptor::read(&node)?;
        layer.one_of(&node, &TARS, &["", "+gzip", "+zstd", ".gzip", ".zstd"])?;
        layers.push(layer);
    }
    Ok((config, layers))
}

/// The image of these layers, with the digests that are known; `name` is the document that lists them.
fn image(name: &str, described: Described, layers: Vec<(Blob, Option<Sha256>)>) -> Result<Image> {
    let Described { config, diff_ids } = described;
    let (count, ids) = (layers.len(), diff_ids.len());
    if count != ids {
        return Err(error!("{name}: it has {count} layers, but {ids} diff_ids"));
    } else if count == 0 {
        return Err(error!("{name}: it has no layer"));
    } else if count > LAYERS {
        return Err(error!("{name}: it has {count} layers, more than {LAYERS}"));
    }
    let mut image = Image {
        layers: Vec::new(),
        config,
    };
    for ((blob, digest), diff_id) in layers.into_iter().zip(diff_ids) {
        let layer = blob.layer(digest, diff_id).map_err(within(name))?;
        image.layers.push(Layer::Tar(layer));
    }
    Ok(image)
}

/// What one document says about another, or about a layer (descriptor.md).
struct Descriptor<'v> {
    media_type: &'v str,
    digest: Sha256,
    size: u64,
    platform: Option<Platform<'v>>,
    /// What containerd and others call it; empty if they do not.
    names: [&'v str; 2],
    /// Whether it is not an image but BuildKit's statement about one.
    attestation: bool,
}

impl<'v> Descriptor<'v> {
    fn read(node: &Node<'v, '_>) -> Result<Descriptor<'v>> {
        node.object()?;
        let platform = match node.get("platform") {
            Some(node) => Some(Platform::read(&node)?),
            None => None,
        };
        let unknown = platform.is_some_and(|platform| platform.0[0] == "unknown");
        let mut annotations = [""; 3];
        if let Some(node) = node.get("annotations") {
            for (text, key) in annotations.iter_mut().zip(ANNOTATIONS) {
                *text = node.text_of(key)?;
            }
        }
        let [name, ref_name, reference_type] = annotations;
        Ok(Descriptor {
            media_type: node.need("mediaType")?.text()?,
            digest: digest(&node.need("digest")?)?,
            size: node.need("size")?.number(i64::MAX as u64)?,
            platform,
            names: [name, ref_name],
            attestation: unknown || !reference_type.is_empty(),
        })
    }

    /// Whether the media type is one of these, followed by one of these endings.
    fn one_of(&self, node: &Node, known: &[&str], endings: &[&str]) -> Result<()> {
        for known in known {
            if let Some(rest) = self.media_type.strip_prefix(known)
                && endings.contains(&rest)
            {
                return Ok(());
            }
        }
        let media_type = show(self.media_type.as_bytes());
        Err(node.error(&format!("unknown media type {media_type}")))
    }

    /// What errors call the blob.
    fn blob(&self) -> String {
        "blob sha256:".to_owned() + &hex(&self.digest)
    }

    fn called(&self, reference: &str) -> bool {
        self.names.iter().any(|name| called(name, reference))
            || parse_digest(reference) == Some(self.digest)
    }

    fn name(&self) -> String {
        let digest = "sha256:".to_owned() + &hex(&self.digest);
        let names = [self.names[0], self.names[1], &digest];
        let name = names.into_iter().find(|name| !name.is_empty());
        show(name.unwrap_or_default().as_bytes())
    }

    fn variant(&self) -> &'v str {
        self.platform.map_or("", |platform| platform.0[2])
    }
}

/// Operating system, architecture and its variant, in Go's names.
#[derive(Clone, Copy)]
struct Platform<'a>([&'a str; 3]);

impl<'a> Platform<'a> {
    /// The platform mini was compiled for.
    fn machine() -> Platform<'static> {
        let (architecture, variant) = platform();
        Platform(["linux", architecture, variant]).with_variant()
    }

    fn parse(text: &'a str) -> Result<Platform<'a>> {
        let parts: Vec<_> = text.splitn(4, '/').collect();
        match parts[..] {
            [os, architecture] => Ok(Platform([os, architecture, ""])),
            [os, architecture, variant] => Ok(Platform([os, architecture, variant])),
            _ => {
                let text = show(text.as_bytes());
                Err(error!(
                    "a platform is OS/ARCHITECTURE[/VARIANT], not {text}"
                ))
            }
        }
    }

    /// Without a variant, the one that nearly every such machine has: what is for a lower one runs there, too.
    fn with_variant(self) -> Platform<'a> {
        let Platform([os, architecture, variant]) = self;
        let variant = match (architecture, variant) {
            ("amd64", "") => "v1",
            ("arm64", "") => "v8",
            ("arm", "") => "v7",
            (_, same) => same,
        };
        Platform([os, architecture, variant])
    }

    fn read(node: &Node<'a, '_>) -> Result<Platform<'a>> {
        node.object()?;
        let mut platform = Platform([""; 3]);
        for (part, key) in platform.0.iter_mut().zip(["os", "architecture", "variant"]) {
            *part = node.text_of(key)?;
        }
        Ok(platform)
    }

    fn fits(&self, wanted: &Platform) -> bool {
        self.0[..2] == wanted.0[..2] && (wanted.0[2].is_empty() || self.0[2] <= wanted.0[2])
    }

    /// As `parse` takes it.
    fn text(&self) -> String {
        let parts = if self.0[2].is_empty() { 2 } else { 3 };
        self.0[..parts].join("/")
    }
}

/// A configuration, and what each layer's tar hashes to when it is not compressed, the lowest first.
#[derive(Debug, Default)]
pub struct Described {
    pub config: Config,
    pub diff_ids: Vec<Sha256>,
}

/// Reads an image's configuration (config.md). Errors name the place in the document.
pub fn config(text: &[u8]) -> Result<Described> {
    let value = parse(text)?;
    let root = Node::root(&value);
    root.object()?;
    let rootfs = root.need("rootfs")?;
    rootfs.object()?;
    let mut described = Described::default();
    for node in rootfs.items("diff_ids")? {
        described.diff_ids.push(digest(&node)?);
    }
    let platform = Platform::read(&root)?;
    if !platform.0[1].is_empty() {
        described.config.platform = platform.text();
    }
    if let Some(node) = root.get("config") {
        run_config(&node, &mut described.config)?;
    }
    Ok(described)
}

/// Reads what a configuration says about how to run the image.
fn run_config(node: &Node, config: &mut Config) -> Result<()> {
    node.object()?;
    let mut env = Vec::new();
    strings(node, "Entrypoint", &mut config.entrypoint)?;
    strings(node, "Cmd", &mut config.cmd)?;
    strings(node, "Env", &mut env)?;
    for mut name in env {
        // What is not NAME=VALUE sets nothing.
        if let Some(at @ 1..) = name.iter().position(|&byte| byte == b'=') {
            let value = name.split_off(at + 1);
            name.truncate(at);
            config.env.push((name, value));
        }
    }
    config.workdir = c_string(node, node.text_of("WorkingDir")?)?;
    config.user = c_string(node, node.text_of("User")?)?;
    config.stop_signal = c_string(node, node.text_of("StopSignal")?)?;
    if let Some(labels) = node.get("Labels") {
        for (name, value) in labels.object()? {
            let value = labels.with(value).text()?;
            let label = (c_string(&labels, name)?, c_string(&labels, value)?);
            config.labels.push(label);
        }
    }
    keys(node, "ExposedPorts", &mut config.exposed_ports)?;
    keys(node, "Volumes", &mut config.volumes)
}

fn strings(node: &Node, key: &str, strings: &mut Vec<Vec<u8>>) -> Result<()> {
    for node in node.items(key)? {
        strings.push(c_string(&node, node.text()?)?);
    }
    Ok(())
}

fn keys(node: &Node, key: &str, keys: &mut Vec<Vec<u8>>) -> Result<()> {
    if let Some(object) = node.get(key) {
        for (name, _) in object.object()? {
            keys.push(c_string(&object, name)?);
        }
    }
    Ok(())
}

fn texts<'v>(node: &Node<'v, '_>, key: &str) -> Result<Vec<&'v str>> {
    let mut texts = Vec::new();
    for node in node.items(key)? {
        texts.push(node.text()?);
    }
    Ok(texts)
}

/// A string that may become an argument or a path.
fn c_string(node: &Node, text: &str) -> Result<Vec<u8>> {
    match text.contains('\0') {
        true => Err(node.error("a string has a NUL byte")),
        false => Ok(text.into()),
    }
}

fn digest(node: &Node) -> Result<Sha256> {
    let text = node.text()?;
    let shown = show(text.as_bytes());
    let what = ["not \"sha256:\" and 64 digits in lower case: ", &shown].concat();
    let wrong = || node.error(&what);
    parse_digest(text).ok_or_else(wrong)
}
