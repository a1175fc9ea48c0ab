use super::*;
use std::io::Write;

/// A file without a name, with these contents.
fn file(contents: &[u8]) -> File {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("mini-archive-{}-{count}", std::process::id()));
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(&path);
    let mut file = file.unwrap();
    std::fs::remove_file(path).unwrap();
    file.write_all(contents).unwrap();
    file
}

/// A header for a member of this type, and its data or the target of its link.
fn member(name: &str, typeflag: u8, data: &[u8]) -> Vec<u8> {
    let mut block = [0; BLOCK];
    let size = format!("{:011o}", if typeflag == b'0' { data.len() } else { 0 });
    let link = if typeflag == b'0' { b"" } else { data };
    let fields: [(usize, &[u8]); 7] = [
        (0, name.as_bytes()),
        (100, b"0000644\0"),
        (124, size.as_bytes()),
        (148, b"        "),
        (156, &[typeflag]),
        (157, link),
        (257, b"ustar\x0000"),
    ];
    for (at, bytes) in fields {
        block[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut member = block.to_vec();
    if typeflag == b'0' {
        member.extend(data);
        member.resize(member.len().next_multiple_of(BLOCK), 0);
    }
    member
}

fn tar(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

fn look(contents: &[u8], wanted: &Wanted) -> Result<Opened> {
    open_file(
        &file(contents),
        Path::new("/archive"),
        Path::new("x.tar"),
        wanted,
    )
}

/// What it is, in a word.
fn kind(contents: &[u8]) -> String {
    match look(contents, &Wanted::default()) {
        Ok(Opened::Image(image)) => match &image.layers[..] {
            [Layer::Tar(tar)] if tar.size.is_none() => format!("tar {:?}", tar.compression),
            [Layer::Filesystem { fstype, device, .. }] => format!("{fstype:?} {device}"),
            layers => format!("{} layers", layers.len()),
        },
        Ok(Opened::Inflate(tar)) => format!("inflate {:?}", tar.compression),
        Ok(Opened::Stream) => "stream".into(),
        Err(error) => error.to_string(),
    }
}

fn magic(at: usize, magic: &[u8]) -> Vec<u8> {
    let mut contents = vec![0; 8192];
    contents[at..at + magic.len()].copy_from_slice(magic);
    contents
}

#[test]
fn files_are_told_by_their_first_bytes() {
    assert_eq!(kind(&magic(0, b"hsqs")), "\"squashfs\" false");
    assert_eq!(kind(&magic(1024, b"\xe2\xe1\xf5\xe0")), "\"erofs\" false");
    assert_eq!(kind(&magic(1080, b"\x53\xef")), "\"ext4\" false");
    assert_eq!(kind(b""), "tar None");
    assert_eq!(kind(b"text"), "tar None");
    assert_eq!(kind(&[0; 1024]), "tar None");
    // Data that look like a file system.
    let mut data = vec![0; 2000];
    data[568..570].copy_from_slice(b"\x53\xef");
    assert_eq!(kind(&tar(&[member("data", b'0', &data)])), "tar None");
    let look = |path| open(Path::new(path), &Wanted::default());
    assert!(matches!(look("/dev/null"), Ok(Opened::Stream)));
    let Ok(Opened::Image(image)) = look("/proc/self") else {
        panic!();
    };
    assert!(matches!(&image.layers[..], [Layer::Directory(path)] if path == "/proc/self"));
    let error = look("/does/not/exist").err().unwrap();
    let expected = "open(\"/does/not/exist\"): No such file or directory";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn the_first_member_tells_an_archive_of_images() {
    let id = "0123456789abcdef".repeat(4);
    for (name, expected) in [
        ("blobs", true),
        ("./blobs/sha256/x", true),
        ("oci-layout", true),
        ("index.json", true),
        ("manifest.json", true),
        ("repositories", true),
        (&id, true),
        (&format!("{id}/layer.tar"), true),
        (&format!("{id}.tar"), true),
        (&format!("./{id}.json"), true),
        (&id[1..], false),
        ("bin", false),
        ("etc/index.json", false),
    ] {
        let first = first_member(&member(name, b'0', b""));
        assert_eq!(first.as_deref().map(of_an_image), Some(expected), "{name}");
    }
    let behind = tar(&[member("./", b'5', b""), member("./oci-layout", b'0', b"")]);
    assert_eq!(first_member(&behind).unwrap(), b"oci-layout");
    assert_eq!(first_member(&behind[..BLOCK]).unwrap(), b"");
    assert_eq!(first_member(&[0; 1024]), None);
}

#[test]
fn paths_stay_inside() {
    for (directory, path, expected) in [
        ("", "./a//b/./c/", "a/b/c"),
        ("", "../../etc/../passwd", "passwd"),
        ("x/layer.tar/..", "../y.tar", "y.tar"),
        ("x/layer.tar/..", "../../../y", "y"),
        ("x/..", "/abs", "abs"),
        ("", ".", ""),
    ] {
        let found = relative(directory.as_bytes(), path.as_bytes());
        assert_eq!(found, expected.as_bytes(), "{directory} {path}");
    }
}

#[test]
fn a_name_may_follow_the_path() {
    let split = |path| reference(Path::new(path));
    assert_eq!(split("x.tar#a:1"), (Path::new("x.tar"), Some("a:1")));
    assert_eq!(split("x.tar"), (Path::new("x.tar"), None));
    let path = std::env::temp_dir().join(format!("mini-archive-{}#x", std::process::id()));
    std::fs::write(&path, "").unwrap();
    assert_eq!(reference(&path), (&*path, None));
    std::fs::remove_file(&path).unwrap();
}

#[cfg(not(feature = "images"))]
#[test]
fn without_images_an_archive_is_an_error() {
    let expected = "image(\"x.tar\"): this build of mini cannot read archives of images";
    assert_eq!(kind(&tar(&[member("oci-layout", b'0', b"")])), expected);
}

#[cfg(feature = "images")]
mod images {
    use super::*;
    use crate::image::digest::{hex, parse_digest, sha256};

    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    /// The blobs of an OCI archive.
    #[derive(Default)]
    struct Layout(Vec<Vec<u8>>);

    fn digest(data: &[u8]) -> String {
        format!("sha256:{}", hex(&sha256(data)))
    }

    /// The machine these tests run on.
    fn here() -> &'static str {
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => panic!("{other}"),
        }
    }

    fn descriptor(kind: &str, data: &[u8], more: &str) -> String {
        let (digest, size) = (digest(data), data.len());
        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}{more}}}"#)
    }

    impl Layout {
        /// Adds a blob; its descriptor.
        fn blob(&mut self, kind: &str, data: &[u8], more: &str) -> String {
            let name = format!("blobs/sha256/{}", &digest(data)[7..]);
            self.0.push(member(&name, b'0', data));
            descriptor(kind, data, more)
        }

        /// Adds an image of one layer that holds this text; its manifest's descriptor.
        fn image(&mut self, text: &[u8], architecture: &str, more: &str) -> String {
            let layer = self.blob(LAYER, text, "");
            let ids = digest(text);
            let config = format!(
                r#"{{"os":"linux","architecture":"{architecture}","rootfs":{{"diff_ids":["{ids}"]}}}}"#
            );
            let config = self.blob(CONFIG, config.as_bytes(), "");
            let manifest = format!(r#"{{"config":{config},"layers":[{layer}]}}"#);
            self.blob(MANIFEST, manifest.as_bytes(), more)
        }

        fn index(&mut self, manifests: &[String]) -> String {
            let text = index(manifests);
            self.blob(INDEX, text.as_bytes(), "")
        }

        fn archive(&self, index: &str) -> Vec<u8> {
            let mut members = vec![member("oci-layout", b'0', b"{}")];
            members.extend(self.0.iter().cloned());
            members.push(member("index.json", b'0', index.as_bytes()));
            tar(&members)
        }
    }

    fn index(manifests: &[String]) -> String {
        format!(r#"{{"manifests":[{}]}}"#, manifests.join(","))
    }

    fn get(archive: &[u8], wanted: &Wanted) -> Image {
        match look(archive, wanted) {
            Ok(Opened::Image(image)) => image,
            Ok(_) => panic!("not an image"),
            Err(error) => panic!("{error}"),
        }
    }

    fn error(archive: &[u8], wanted: &Wanted) -> String {
        let error = look(archive, wanted).err().expect("no error").to_string();
        assert!(!error.contains(char::is_control) && error.len() < 2000);
        let rest = error.strip_prefix("image(\"x.tar\"): ").expect(&error);
        rest.into()
    }

    /// The data of an image's only layer.
    fn only(archive: &[u8], wanted: &Wanted) -> String {
        let image = get(archive, wanted);
        let [Layer::Tar(tar)] = &image.layers[..] else {
            panic!("{image:?}");
        };
        assert_eq!(tar.path, Path::new("/archive"));
        let end = tar.offset + tar.size.unwrap();
        let data = &archive[tar.offset as usize..end as usize];
        assert!(tar.digest.is_none_or(|digest| digest == sha256(data)));
        assert_eq!(tar.diff_id, Some(sha256(data)));
        String::from_utf8(data.into()).unwrap()
    }

    const ANY: Wanted = Wanted {
        platform: None,
        reference: None,
    };

    fn platform(text: &str) -> Wanted<'_> {
        Wanted {
            platform: Some(text),
            ..ANY
        }
    }

    fn named(text: &str) -> Wanted<'_> {
        Wanted {
            reference: Some(text),
            ..ANY
        }
    }

    #[test]
    fn an_oci_archive_gives_its_layers_where_they_are() {
        let mut layout = Layout::default();
        let image = layout.image(b"layer", here(), "");
        assert_eq!(only(&layout.archive(&index(&[image])), &ANY), "layer");
    }

    #[test]
    fn platforms_are_chosen_from_nested_indexes() {
        let mut layout = Layout::default();
        let mut image = |text: &[u8], architecture: &str, variant: &str| {
            let more = format!(
                r#","platform":{{"os":"linux","architecture":"{architecture}","variant":"{variant}"}}"#
            );
            layout.image(text, architecture, &more)
        };
        let (v6, v7, v8) = (
            image(b"v6", "arm", "v6"),
            image(b"v7", "arm", "v7"),
            image(b"v8", "arm", "v8"),
        );
        let images = [
            image(b"s390x", "s390x", ""),
            v6,
            v7,
            v8,
            image(b"here", here(), ""),
            layout.image(
                b"x",
                "x",
                r#","platform":{"os":"unknown","architecture":"unknown"}"#,
            ),
            layout.image(
                b"y",
                here(),
                r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#,
            ),
            layout.blob("application/x-what", b"what", ""),
        ];
        let inner = layout.index(&images);
        let middle = layout.index(&[inner]);
        let archive = layout.archive(&index(&[middle]));
        assert_eq!(only(&archive, &ANY), "here");
        assert_eq!(only(&archive, &platform("linux/arm")), "v7");
        assert_eq!(only(&archive, &platform("linux/arm/v6")), "v6");
        assert_eq!(only(&archive, &platform("linux/s390x")), "s390x");
        assert_eq!(
            error(&archive, &platform("linux/arm/v5")),
            format!(
                "blob {}: it has nothing for linux/arm/v5, but for \"linux/s390x\", \"linux/arm/v6\", \"linux/arm/v7\", \"linux/arm/v8\", \"linux/{}\"",
                digest(index(&images).as_bytes()),
                here()
            )
        );
        assert_eq!(
            error(&archive, &platform("arm")),
            "a platform is OS/ARCHITECTURE[/VARIANT], not \"arm\""
        );
    }

    #[test]
    fn an_image_for_another_machine_is_a_warning_unless_asked_for() {
        let mut layout = Layout::default();
        let image = layout.image(b"s390x", "s390x", "");
        let archive = layout.archive(&index(&[image]));
        let config = get(&archive, &ANY).config;
        let here = Platform(here());
        assert_eq!(
            manifest::foreign(&config).unwrap(),
            format!("the image is for \"linux/s390x\", this machine is {here}")
        );
        assert_eq!(manifest::foreign(&Config::default()), None);
        assert_eq!(
            error(&archive, &platform("linux/arm64")),
            "it has nothing for linux/arm64/v8, but for \"linux/s390x\""
        );
    }

    struct Platform(&'static str);
    impl std::fmt::Display for Platform {
        fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            let variant = if self.0 == "arm64" { "v8" } else { "v1" };
            write!(f, "linux/{}/{variant}", self.0)
        }
    }

    #[test]
    fn one_of_several_images_is_chosen_by_name() {
        let mut layout = Layout::default();
        let name = |name: &str| {
            format!(r#","annotations":{{"io.containerd.image.name":"docker.io/library/{name}"}}"#)
        };
        let (a, b) = (
            layout.image(b"a", here(), &name("a:1")),
            layout.image(b"b", here(), &name("b:1")),
        );
        let archive = layout.archive(&index(&[a.clone(), b.clone()]));
        assert_eq!(
            error(&archive, &ANY),
            "index.json: it has several images: \"docker.io/library/a:1\", \"docker.io/library/b:1\" (choose one with ROOTFS#NAME)"
        );
        assert_eq!(only(&archive, &named("b:1")), "b");
        assert_eq!(only(&archive, &named("docker.io/library/a:1")), "a");
        let digest = b.split('"').find(|part| part.starts_with("sha256:"));
        assert_eq!(only(&archive, &named(digest.unwrap())), "b");
        assert_eq!(
            error(&archive, &named(":1")),
            "index.json: it has no image \":1\", but \"docker.io/library/a:1\", \"docker.io/library/b:1\""
        );
        // Two names for one image.
        let archive = layout.archive(&index(&[a.clone(), a.replace("a:1", "c:1")]));
        assert_eq!(only(&archive, &ANY), "a");
    }

    #[test]
    fn digests_and_sizes_have_to_be_right() {
        let missing = "0".repeat(64);
        let zeros = format!("sha256:{missing}");
        let text = r#"{"config":1}"#.as_bytes();
        for (descriptor, expected) in [
            (descriptor(MANIFEST, b"gone", ""), format!("blob {} is missing", digest(b"gone"))),
            (
                descriptor(MANIFEST, text, "").replace("\"size\":12", "\"size\":13"),
                format!("blob {} has 12 bytes, not 13", digest(text)),
            ),
            (
                format!(r#"{{"mediaType":"{MANIFEST}","digest":"{zeros}","size":5}}"#),
                format!("blob {zeros} is damaged: it has {}", digest(b"wrong")),
            ),
            (
                r#"{"mediaType":"x","digest":"sha256:../../etc","size":5}"#.into(),
                "index.json: manifests[0].digest: not \"sha256:\" and 64 digits in lower case: \"sha256:../../etc\"".into(),
            ),
            (
                format!(r#"{{"mediaType":"x","digest":"sha512:{missing}{missing}","size":5}}"#),
                format!("index.json: manifests[0].digest: not \"sha256:\" and 64 digits in lower case: \"sha512:{missing}{missing}\""),
            ),
            (
                descriptor("text/html", text, ""),
                "index.json: manifests[0]: unknown media type \"text/html\"".into(),
            ),
            (
                descriptor(MANIFEST, text, r#","size":1"#),
                "index.json: manifests[0]: a key comes twice".into(),
            ),
            (
                descriptor(MANIFEST, text, ""),
                format!("blob {}: config: not an object", digest(text)),
            ),
            ("7".into(), "index.json: manifests[0]: not an object".into()),
            (r#"{"digest":7}"#.into(), "index.json: manifests[0]: no mediaType".into()),
            ("[".repeat(10_000), "index.json: line 1, column 47: nested more than 32 deep".into()),
            ("".into(), "index.json: it lists no image".into()),
        ] {
            let mut layout = Layout::default();
            layout.blob(MANIFEST, text, "");
            layout.0.push(member(&format!("blobs/sha256/{missing}"), b'0', b"wrong"));
            let archive = layout.archive(&index(&[descriptor]));
            assert_eq!(error(&archive, &ANY), expected);
        }
    }

    #[test]
    fn manifests_have_to_be_right() {
        let id = digest(b"layer");
        let config = |ids: &str| format!(r#"{{"rootfs":{{"diff_ids":[{ids}]}}}}"#);
        let right = config(&format!("\"{id}\""));
        let layer = descriptor(LAYER, b"layer", "");
        let manifest =
            |config: &str, layers: &str| format!(r#"{{"config":{config},"layers":[{layers}]}}"#);
        let of = |config: &str| manifest(&descriptor(CONFIG, config.as_bytes(), ""), &layer);
        let (no_ids, deep) = (config(""), "[".repeat(9999));
        let twice = right.replace("{\"diff", "{\"diff_ids\":[],\"diff");
        let nul = right.replacen('{', r#"{"config":{"Labels":{"a":"\u0000"}},"#, 1);
        let blob = |text: &str| format!("blob {}", digest(text.as_bytes()));
        for (config, manifest, at_config, expected) in [
            (
                &right,
                manifest("7", ""),
                false,
                "config: not an object".to_owned(),
            ),
            (
                &right,
                manifest(&layer, &layer),
                false,
                format!("config: unknown media type \"{LAYER}\""),
            ),
            (
                &right,
                of(&right).replace(LAYER, "application/vnd.oci.image.layer.v1.tar+lz9"),
                false,
                "layers[0]: unknown media type \"application/vnd.oci.image.layer.v1.tar+lz9\""
                    .into(),
            ),
            (
                &right,
                of(&right).replace("layers", "players"),
                false,
                "no layers".into(),
            ),
            (
                &no_ids,
                of(&no_ids),
                false,
                "it has 1 layers, but 0 diff_ids".into(),
            ),
            (
                &no_ids,
                manifest(&descriptor(CONFIG, no_ids.as_bytes(), ""), ""),
                false,
                "it has no layer".into(),
            ),
            (&twice, of(&twice), true, "rootfs: a key comes twice".into()),
            (
                &nul,
                of(&nul),
                true,
                "config.Labels: a string has a NUL byte".into(),
            ),
            (
                &deep,
                of(&deep),
                true,
                "line 1, column 35: nested more than 32 deep".into(),
            ),
        ] {
            let mut layout = Layout::default();
            layout.blob(CONFIG, config.as_bytes(), "");
            layout.blob(LAYER, b"layer", "");
            let descriptor = layout.blob(MANIFEST, manifest.as_bytes(), "");
            let archive = layout.archive(&index(&[descriptor]));
            let place = blob(if at_config { config } else { &manifest });
            assert_eq!(error(&archive, &ANY), format!("{place}: {expected}"));
        }
        let mut layout = Layout::default();
        layout.blob(CONFIG, right.as_bytes(), "");
        let descriptor = layout.blob(MANIFEST, of(&right).as_bytes(), "");
        let archive = layout.archive(&index(&[descriptor]));
        assert_eq!(error(&archive, &ANY), format!("blob {id} is missing"));
    }

    #[test]
    fn indexes_nest_only_so_deep() {
        let mut layout = Layout::default();
        let mut inner = layout.image(b"layer", here(), "");
        for _ in 0..4 {
            inner = layout.index(&[inner]);
        }
        assert_eq!(
            only(&layout.archive(&index(std::slice::from_ref(&inner))), &ANY),
            "layer"
        );
        let outer = layout.index(&[inner]);
        let message = error(&layout.archive(&index(&[outer])), &ANY);
        assert!(
            message.ends_with("indexes nest more than 4 deep"),
            "{message}"
        );
    }

    fn saved(list: &str, more: &[Vec<u8>]) -> Vec<u8> {
        let config = format!(r#"{{"rootfs":{{"diff_ids":["{}"]}}}}"#, digest(b"layer"));
        let id = "a".repeat(64);
        let mut members = vec![
            member(&format!("{id}.tar"), b'0', b"layer"),
            member("c.json", b'0', config.as_bytes()),
            member(
                &format!("{id}/layer.tar"),
                b'2',
                format!("../{id}.tar").as_bytes(),
            ),
            member("hard.tar", b'1', format!("./{id}/layer.tar").as_bytes()),
            member("loop.tar", b'2', b"loop.tar"),
            member("up.tar", b'2', b"../../../../etc/passwd"),
        ];
        members.extend(more.iter().cloned());
        members.push(member("manifest.json", b'0', list.as_bytes()));
        tar(&members)
    }

    #[test]
    fn docker_archives_are_read_through_links() {
        let id = "a".repeat(64);
        for layer in ["hard.tar", &format!("{id}/layer.tar"), &format!("{id}.tar")] {
            let list = format!(r#"[{{"Config":"c.json","RepoTags":null,"Layers":["{layer}"]}}]"#);
            assert_eq!(only(&saved(&list, &[]), &ANY), "layer");
        }
        for (list, expected) in [
            (
                r#"[{"Config":"c.json","Layers":["up.tar"]}]"#,
                "manifest.json: \"up.tar\" is missing",
            ),
            (
                r#"[{"Config":"c.json","Layers":["loop.tar"]}]"#,
                "\"loop.tar\": Too many levels of symbolic links",
            ),
            (
                r#"[{"Config":"d.json","Layers":["x"]}]"#,
                "manifest.json: \"d.json\" is missing",
            ),
            (
                r#"[{"Config":"hard.tar","Layers":["x"]}]"#,
                "\"hard.tar\": line 1, column 1: Unexpected char: 'l'",
            ),
            (
                r#"[{"Config":"c.json","Layers":[]}]"#,
                "manifest.json: it has 0 layers, but 1 diff_ids",
            ),
            (r#"[{"Layers":[]}]"#, "manifest.json: [0]: no Config"),
            ("[]", "manifest.json: it lists no image"),
        ] {
            assert_eq!(error(&saved(list, &[]), &ANY), expected);
        }
        // Not an archive of images, after all.
        assert_eq!(kind(&saved("{}", &[])), "tar None");
        assert_eq!(
            kind(&tar(&[
                member("blobs", b'5', b""),
                member("bin/sh", b'0', b"x")
            ])),
            "tar None"
        );
        // Cut off.
        let list = r#"[{"Config":"c.json","Layers":["hard.tar"]}]"#;
        let whole = saved(list, &[member("manifest.json", b'0', list.as_bytes())]);
        let cut = &whole[..whole.len() - 1536];
        assert!(error(cut, &ANY).starts_with("it is truncated (header at byte "));
    }

    #[test]
    fn one_of_several_saved_images_is_chosen_by_tag() {
        let id = "a".repeat(64);
        let one =
            format!(r#"{{"Config":"c.json","RepoTags":["x/a:1","b:2"],"Layers":["{id}.tar"]}}"#);
        let archive = saved(&format!("[{one},{}]", one.replace("x/a:1\",\"b", "c")), &[]);
        assert_eq!(
            error(&archive, &ANY),
            "manifest.json: it has several images: \"x/a:1\", \"c:2\" (choose one with ROOTFS#NAME)"
        );
        assert_eq!(only(&archive, &named("a:1")), "layer");
        assert_eq!(
            error(&archive, &named("d:1")),
            "manifest.json: it has no image \"d:1\", but \"x/a:1\", \"c:2\""
        );
    }

    #[test]
    fn an_empty_index_gives_way_to_a_saved_image() {
        let id = "a".repeat(64);
        let list = format!(r#"[{{"Config":"c.json","Layers":["{id}.tar"]}}]"#);
        let oci = [
            member("oci-layout", b'0', b"{}"),
            member("index.json", b'0', br#"{"manifests":[]}"#),
        ];
        assert_eq!(only(&saved(&list, &oci), &ANY), "layer");
    }

    #[test]
    fn a_configuration_is_read_as_docker_writes_it() {
        let text = r#"{"architecture":"arm64","os":"linux","variant":"v8","rootfs":{"type":"layers","diff_ids":null},
            "config":{"Entrypoint":["/e","x"],"Cmd":["a b"],"Env":["A=1=2","B=","C","=D","A=3"],"WorkingDir":"/w",
            "User":"1:2","StopSignal":"SIGINT","Labels":{"k":"v"},"ExposedPorts":{"80/tcp":{}},"Volumes":{"/v":{}},
            "OnBuild":null}}"#;
        let bytes = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.as_bytes().to_vec())
                .collect::<Vec<_>>()
        };
        let pair = |name: &str, value: &str| (name.into(), value.into());
        let expected = Config {
            entrypoint: bytes(&["/e", "x"]),
            cmd: bytes(&["a b"]),
            env: vec![pair("A", "1=2"), pair("B", ""), pair("A", "3")],
            workdir: b"/w".into(),
            user: b"1:2".into(),
            stop_signal: b"SIGINT".into(),
            labels: vec![pair("k", "v")],
            exposed_ports: bytes(&["80/tcp"]),
            volumes: bytes(&["/v"]),
            platform: "linux/arm64/v8".into(),
        };
        assert_eq!(manifest::config(text.as_bytes()).unwrap().config, expected);
        let empty =
            r#"{"rootfs":{},"config":{"Entrypoint":null,"Env":null,"Labels":null,"User":null}}"#;
        assert_eq!(
            manifest::config(empty.as_bytes()).unwrap().config,
            Config::default()
        );
        for (text, expected) in [
            (r#"{}"#, "no rootfs"),
            (
                r#"{"rootfs":{},"config":{"Cmd":"x"}}"#,
                "config.Cmd: not an array",
            ),
            (
                r#"{"rootfs":{},"config":{"Cmd":[1]}}"#,
                "config.Cmd[0]: not a string",
            ),
            (
                r#"{"rootfs":{},"config":{"Labels":{"a":"","a":""}}}"#,
                "config.Labels: a key comes twice",
            ),
        ] {
            assert_eq!(
                manifest::config(text.as_bytes()).unwrap_err().to_string(),
                expected
            );
        }
    }

    #[test]
    fn a_directory_keeps_its_blobs_below_it() {
        let path = std::env::temp_dir().join(format!("mini-archive-{}", std::process::id()));
        let mut layout = Layout::default();
        let image = layout.image(b"layer", here(), "");
        let archive = layout.archive(&index(&[image]));
        std::fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        let read = |offset, buffer: &mut [u8]| read_at(&file(&archive), offset, buffer);
        members(u64::MAX, &read, &mut |member, offset| {
            let data = &archive[offset as usize..][..member.size as usize];
            let name = String::from_utf8(member.path).unwrap();
            std::fs::write(path.join(name), data).unwrap();
            Ok(true)
        })
        .unwrap();
        let read = || match open(&path, &ANY) {
            Ok(Opened::Image(image)) => Ok(image.layers),
            Ok(_) => panic!(),
            Err(error) => Err(error.to_string()),
        };
        let blob = path.join("blobs/sha256").join(&digest(b"layer")[7..]);
        let [Layer::Tar(found)] = &read().unwrap()[..] else {
            panic!();
        };
        assert_eq!(
            (&found.path, found.size),
            (&blob.canonicalize().unwrap(), Some(5))
        );
        // A link that would lead outside, and what is no file.
        std::fs::remove_file(&blob).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &blob).unwrap();
        let missing = format!(
            "image({}): blob {} is missing",
            show(&path),
            digest(b"layer")
        );
        assert_eq!(read().unwrap_err(), missing);
        std::fs::remove_file(&blob).unwrap();
        std::fs::create_dir(&blob).unwrap();
        assert!(read().unwrap_err().ends_with("\": not a regular file"));
        // No layout any more.
        std::fs::remove_file(path.join("oci-layout")).unwrap();
        assert!(matches!(&read().unwrap()[..], [Layer::Directory(_)]));
        std::fs::remove_dir_all(&path).unwrap();
    }

    /// All that rootfs-build/images has made, if it has.
    #[test]
    fn images_of_other_tools_are_all_the_same() {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/rootfs/images");
        if !images.exists() {
            return eprintln!("skip: rootfs-build/images has not been run");
        }
        let get = |name: &str, wanted: &Wanted| match open(&images.join(name), wanted)
            .unwrap_or_else(|error| panic!("{error}"))
        {
            Opened::Image(image) => image,
            _ => panic!("{name}"),
        };
        let ids = |image: &Image| -> Vec<Sha256> {
            let id = |layer: &Layer| match layer {
                Layer::Tar(tar) => tar.diff_id.unwrap(),
                _ => panic!("{layer:?}"),
            };
            image.layers.iter().map(id).collect()
        };
        let first = get("oci", &ANY);
        assert_eq!(
            (ids(&first).len(), &first.config.entrypoint[0][..]),
            (3, &b"/entry"[..])
        );
        assert_eq!(
            first.config.env[1],
            (b"GREETING".into(), b"hello = world".into())
        );
        assert_eq!(manifest::foreign(&first.config), None);
        for name in [
            "oci-zstd",
            "oci.tar",
            "buildah-oci.tar",
            "docker.tar",
            "buildah-docker.tar",
            "docker",
            "docker25.tar",
        ] {
            let image = get(name, &ANY);
            assert_eq!(
                (ids(&image), &image.config),
                (ids(&first), &first.config),
                "{name}"
            );
            for layer in &image.layers {
                let Layer::Tar(tar) = layer else { panic!() };
                let mut data = vec![0; tar.size.unwrap() as usize];
                read_at(&File::open(&tar.path).unwrap(), tar.offset, &mut data).unwrap();
                let (digest, hash) = (tar.digest, sha256(&data));
                assert!(digest.is_none_or(|digest| digest == hash), "{name}");
                assert!(
                    tar.compression.is_some() || tar.diff_id == Some(hash),
                    "{name}"
                );
                assert_eq!(tar.offset % 512, 0);
            }
        }
        let wanted = named("localhost/three:1");
        assert_eq!(ids(&get("two.tar", &wanted)), ids(&first));
        assert_eq!(get("two.tar", &named("other:2")).config.cmd[1], b"other");
        assert!(open(&images.join("two.tar"), &ANY).is_err());
        let built = get("built.tar", &ANY);
        for name in ["multi", "multi.tar"] {
            assert_eq!(ids(&get(name, &ANY)), ids(&built), "{name}");
            let other = get(name, &platform("linux/arm64"));
            assert_eq!(
                (ids(&other).len(), &other.config.platform[..]),
                (1, "linux/arm64")
            );
        }
        let opened = open(&images.join("docker.tar.gz"), &ANY);
        assert!(matches!(
            opened,
            Ok(Opened::Inflate(Tar {
                compression: Some(decompress::Compression::Gzip),
                ..
            }))
        ));
        assert_eq!(parse_digest("sha256:x"), None);
    }

    use crate::image::{Sha256, manifest};
}
