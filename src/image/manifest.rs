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
use super::blobs::{Blob, Blobs, show};
use super::digest::{hex, parse_digest, sha256};
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
    let text = || {
        let (platform, machine) = (show(config.platform.as_bytes()), machine.text());
        format!("the image is for {platform}, this machine is {machine}")
    };
    (!fits(config, &machine)).then(text)
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
        let mut found: Vec<Descriptor> = Vec::new();
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
            } else if !descriptor
                .platform
                .is_none_or(|other| other.fits(&self.platform))
            {
                platforms.extend(
                    descriptor
                        .platform
                        .map(|other| show(other.text().as_bytes())),
                );
            } else {
                found.push(descriptor);
            }
        }
        // The newest variant that this machine has; of equals the first (image-index.md), unless they are different images.
        let variant = found.iter().map(Descriptor::variant).max();
        found.retain(|descriptor| Some(descriptor.variant()) == variant);
        let Some(first) = found.first() else {
            return Err(match (platforms.is_empty(), unknown) {
                (false, _) => self.nothing(&platforms),
                (_, Some(unknown)) => unknown,
                _ => self.missing(&names),
            });
        };
        if depth == 0 && found.iter().any(|other| other.digest != first.digest) {
            let names: Vec<_> = found.iter().map(Descriptor::name).collect();
            return Err(several(&names));
        }
        Ok(found.swap_remove(0))
    }

    fn manifest(&self, name: &str, manifest: &Value) -> Result<Image> {
        let (described_by, layers) = descriptors(&Node::root(manifest)).map_err(within(name))?;
        let text = self.document(&described_by)?;
        let described = config(&text).map_err(within(&described_by.blob()))?;
        let mut found = Vec::new();
        for layer in &layers {
            found.push((self.find(layer)?, Some(layer.digest)));
        }
        image(found, described).map_err(within(name))
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
        image(layers, described).map_err(within(name))
    }

    /// The names of the configuration and of the layers.
    fn choose_saved<'v>(&self, list: &Node<'v, '_>) -> Result<(&'v str, Vec<&'v str>)> {
        let (mut found, mut names) = (Vec::new(), Vec::new());
        for node in list.array().into_iter().flatten() {
            node.object()?;
            let config = node.need("Config")?.text()?;
            let tags = texts(&node, "RepoTags")?;
            let known =
                |reference| config == reference || tags.iter().any(|tag| called(tag, reference));
            let name = show(tags.first().unwrap_or(&config).as_bytes());
            match self.reference.is_none_or(known) {
                true => found.push((config, texts(&node, "Layers")?, name)),
                false => names.push(name),
            }
        }
        match found.pop() {
            None => Err(self.missing(&names)),
            Some((config, layers, _)) if found.is_empty() => Ok((config, layers)),
            Some((_, _, last)) => {
                let mut names: Vec<_> = found.into_iter().map(|(_, _, name)| name).collect();
                names.push(last);
                Err(several(&names))
            }
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
        let path = name.replace("blob sha256:", "blobs/sha256/");
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
        format!(
            "it has nothing for {}, but for {}",
            self.platform.text(),
            listed(platforms)
        )
        .into()
    }

    fn missing(&self, names: &[String]) -> Error {
        match self.reference {
            Some(name) if !names.is_empty() => format!(
                "it has no image {}, but {}",
                show(name.as_bytes()),
                listed(names)
            )
            .into(),
            _ => "it lists no image".into(),
        }
    }
}

fn several(names: &[String]) -> Error {
    format!(
        "it has several images: {} (choose one with ROOTFS#NAME)",
        listed(names)
    )
    .into()
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

fn image(layers: Vec<(Blob, Option<Sha256>)>, described: Described) -> Result<Image> {
    let (count, ids) = (layers.len(), described.diff_ids.len());
    match count {
        _ if count != ids => {
            return Err(error!("it has {count} layers, but {ids} diff_ids"));
        }
        0 => return Err("it has no layer".into()),
        1..=LAYERS => {}
        _ => {
            return Err(error!("it has {count} layers, more than {LAYERS}"));
        }
    }
    let mut image = Image {
        layers: Vec::new(),
        config: described.config,
    };
    for ((blob, digest), diff_id) in layers.into_iter().zip(described.diff_ids) {
        image.layers.push(Layer::Tar(blob.layer(digest, diff_id)?));
    }
    Ok(image)
}

/// What one document says about another, or about a layer (descriptor.md).
struct Descriptor<'v> {
    media_type: &'v str,
    digest: Sha256,
    size: u64,
    platform: Option<Platform<'v>>,
    /// What containerd and others call it.
    names: [Option<&'v str>; 2],
    /// Whether it is not an image but BuildKit's statement about one.
    attestation: bool,
}

impl<'v> Descriptor<'v> {
    fn read(node: &Node<'v, '_>) -> Result<Descriptor<'v>> {
        node.object()?;
        let platform = node.get("platform");
        let platform = platform.map(|node| Platform::read(&node)).transpose()?;
        let unknown = platform.is_some_and(|platform| platform.os == "unknown");
        let annotations = node.get("annotations");
        let annotation = |key| match annotations.as_ref().and_then(|node| node.get(key)) {
            Some(node) => node.text().map(Some),
            None => Ok(None),
        };
        Ok(Descriptor {
            media_type: node.need("mediaType")?.text()?,
            digest: digest(&node.need("digest")?)?,
            size: node.need("size")?.number(i64::MAX as u64)?,
            platform,
            names: [
                annotation("io.containerd.image.name")?,
                annotation("org.opencontainers.image.ref.name")?,
            ],
            attestation: unknown || annotation("vnd.docker.reference.type")?.is_some(),
        })
    }

    /// Whether the media type is one of these, followed by one of these endings.
    fn one_of(&self, node: &Node, known: &[&str], endings: &[&str]) -> Result<()> {
        let mut rests = known
            .iter()
            .filter_map(|known| self.media_type.strip_prefix(known));
        let media_type = show(self.media_type.as_bytes());
        match rests.any(|rest| endings.contains(&rest)) {
            true => Ok(()),
            false => Err(node.error(&format!("unknown media type {media_type}"))),
        }
    }

    /// What errors call the blob.
    fn blob(&self) -> String {
        "blob sha256:".to_owned() + &hex(&self.digest)
    }

    fn called(&self, reference: &str) -> bool {
        let mut names = self.names.iter().flatten();
        names.any(|name| called(name, reference)) || parse_digest(reference) == Some(self.digest)
    }

    fn name(&self) -> String {
        let digest = format!("sha256:{}", hex(&self.digest));
        let name = self.names.iter().flatten().next();
        show(name.map_or(digest.as_bytes(), |name| name.as_bytes()))
    }

    fn variant(&self) -> &'v str {
        self.platform.map_or("", |platform| platform.variant)
    }
}

/// Operating system, architecture and its variant, in Go's names.
#[derive(Clone, Copy)]
struct Platform<'a> {
    os: &'a str,
    architecture: &'a str,
    variant: &'a str,
}

impl<'a> Platform<'a> {
    /// The platform mini was compiled for.
    fn machine() -> Platform<'static> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "loongarch64" => "loong64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            same => same,
        };
        let (os, variant) = ("linux", "");
        Platform {
            os,
            architecture,
            variant,
        }
        .with_variant()
    }

    fn parse(text: &'a str) -> Result<Platform<'a>> {
        let parts: Vec<_> = text.splitn(4, '/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, ""),
            [os, architecture, variant] => (os, architecture, variant),
            _ => {
                let text = show(text.as_bytes());
                return Err(error!(
                    "a platform is OS/ARCHITECTURE[/VARIANT], not {text}"
                ));
            }
        };
        Ok(Platform {
            os,
            architecture,
            variant,
        })
    }

    /// Without a variant, the one that nearly every such machine has: what is for a lower one runs there, too.
    fn with_variant(self) -> Platform<'a> {
        let variant = match (self.architecture, self.variant) {
            ("amd64", "") => "v1",
            ("arm64", "") => "v8",
            ("arm", "") => "v7",
            (_, same) => same,
        };
        Platform { variant, ..self }
    }

    fn read(node: &Node<'a, '_>) -> Result<Platform<'a>> {
        node.object()?;
        let text = |key| node.get(key).map_or(Ok(""), |node| node.text());
        let (os, architecture, variant) = (text("os")?, text("architecture")?, text("variant")?);
        Ok(Platform {
            os,
            architecture,
            variant,
        })
    }

    fn fits(&self, wanted: &Platform) -> bool {
        (self.os, self.architecture) == (wanted.os, wanted.architecture)
            && (wanted.variant.is_empty() || self.variant <= wanted.variant)
    }

    /// As `parse` takes it.
    fn text(&self) -> String {
        let separator = if self.variant.is_empty() { "" } else { "/" };
        [self.os, "/", self.architecture, separator, self.variant].concat()
    }
}

/// A configuration, and what each layer's tar hashes to when it is not compressed, the lowest first.
#[derive(Debug)]
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
    let mut diff_ids = Vec::new();
    for node in rootfs.items("diff_ids")? {
        diff_ids.push(digest(&node)?);
    }
    let platform = Platform::read(&root)?;
    let mut config = Config::default();
    if !platform.architecture.is_empty() {
        config.platform = platform.text();
    }
    let Some(node) = root.get("config") else {
        return Ok(Described { config, diff_ids });
    };
    node.object()?;
    let one = |key| {
        node.get(key)
            .map_or(Ok(Vec::new()), |node| c_string(&node, node.text()?))
    };
    let strings = |key| -> Result<Vec<Vec<u8>>> {
        let mut strings = Vec::new();
        for node in node.items(key)? {
            strings.push(c_string(&node, node.text()?)?);
        }
        Ok(strings)
    };
    let keys = |key| -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        for (name, node) in node.entries(key)? {
            keys.push(c_string(&node, name)?);
        }
        Ok(keys)
    };
    config.entrypoint = strings("Entrypoint")?;
    config.cmd = strings("Cmd")?;
    for mut name in strings("Env")? {
        // What is not NAME=VALUE sets nothing.
        match name.iter().position(|&byte| byte == b'=') {
            None | Some(0) => {}
            Some(at) => {
                let value = name.split_off(at + 1);
                name.truncate(at);
                config.env.push((name, value));
            }
        }
    }
    config.workdir = one("WorkingDir")?;
    config.user = one("User")?;
    config.stop_signal = one("StopSignal")?;
    for (name, node) in node.entries("Labels")? {
        let label = (c_string(&node, name)?, c_string(&node, node.text()?)?);
        config.labels.push(label);
    }
    config.exposed_ports = keys("ExposedPorts")?;
    config.volumes = keys("Volumes")?;
    Ok(Described { config, diff_ids })
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
    let text_shown = show(text.as_bytes());
    let wrong = || {
        node.error(&format!(
            "not \"sha256:\" and 64 digits in lower case: {text_shown}"
        ))
    };
    parse_digest(text).ok_or_else(wrong)
}
