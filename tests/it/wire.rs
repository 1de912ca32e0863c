//! The wire as its readers want it: what buf's STANDARD and COMMENTS rules ask, over the .proto files
//! themselves and the compiled descriptors.
//!
//! Not here: what the messages mean; the doors of `plimsoll-proto` try that.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message as _;
use prost_types::{EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

const PACKAGE: &str = "plimsoll.v1";

fn files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(plimsoll_proto::DESCRIPTORS).unwrap();
    let own = |file: &FileDescriptorProto| file.package() == PACKAGE;
    set.file.into_iter().filter(own).collect()
}

/// The comment above each element, by the element's path in the descriptor.
fn comments(file: &FileDescriptorProto) -> BTreeMap<Vec<i32>, String> {
    let info = file.source_code_info.clone().unwrap_or_default();
    let told = info.location.into_iter().filter_map(|one| {
        let text = one.leading_comments.or(one.trailing_comments)?;
        Some((one.path, text))
    });
    told.collect()
}

/// Every element that must be explained: its path and its name. Fields are 2, values 2, methods 2 within,
/// and what is one of several (a oneof) 8; messages are 4, enums 5, services 6 of a file, as descriptor.proto numbers them.
fn elements(file: &FileDescriptorProto) -> Vec<(Vec<i32>, String)> {
    let mut all = Vec::new();
    for (m, message) in (0..).zip(&file.message_type) {
        all.push((vec![4, m], message.name().to_owned()));
        for (f, field) in (0..).zip(&message.field) {
            all.push((
                vec![4, m, 2, f],
                format!("{}.{}", message.name(), field.name()),
            ));
        }
        for (o, one) in (0..).zip(&message.oneof_decl) {
            // An `optional` field is one of one, made by the compiler.
            let is_made = |field: &prost_types::FieldDescriptorProto| {
                field.oneof_index == Some(o) && field.proto3_optional()
            };
            if !message.field.iter().any(is_made) {
                all.push((
                    vec![4, m, 8, o],
                    format!("{}.{}", message.name(), one.name()),
                ));
            }
        }
        assert!(
            message.enum_type.is_empty(),
            "{} holds an enum",
            message.name()
        );
        assert!(
            message
                .nested_type
                .iter()
                .all(|inner| inner.options.as_ref().is_some_and(|o| o.map_entry())),
            "{} holds a message",
            message.name()
        );
    }
    for (e, one) in (0..).zip(&file.enum_type) {
        all.push((vec![5, e], one.name().to_owned()));
        for (v, value) in (0..).zip(&one.value) {
            all.push((vec![5, e, 2, v], value.name().to_owned()));
        }
    }
    for (s, service) in (0..).zip(&file.service) {
        all.push((vec![6, s], service.name().to_owned()));
        for (m, method) in (0..).zip(&service.method) {
            all.push((
                vec![6, s, 2, m],
                format!("{}.{}", service.name(), method.name()),
            ));
        }
    }
    all
}

#[test]
fn every_message_field_call_enum_and_value_is_explained() {
    let mut seen = 0;
    for file in files() {
        let comments = comments(&file);
        for (path, name) in elements(&file) {
            let text = comments.get(&path).map_or("", |text| text.trim());
            assert!(!text.is_empty(), "{}: {name} is not explained", file.name());
            seen += 1;
        }
    }
    assert!(seen > 300, "only {seen} elements were seen");
}

#[test]
fn a_package_lies_in_the_directory_of_its_name_and_every_file_is_compiled() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let compiled: Vec<String> = files().iter().map(|file| file.name().to_owned()).collect();
    for file in files() {
        assert_eq!(
            Path::new(file.name()).parent().unwrap(),
            Path::new("plimsoll/v1")
        );
        assert_eq!(file.syntax(), "proto3");
        assert!(
            file.name()
                .chars()
                .all(|c| c.is_ascii_lowercase() || "./_0123456789".contains(c))
        );
    }
    for entry in std::fs::read_dir(root.join("plimsoll/v1")).unwrap() {
        let name = format!(
            "plimsoll/v1/{}",
            entry.unwrap().file_name().to_str().unwrap()
        );
        assert!(compiled.contains(&name), "{name} is not compiled");
    }
}

fn upper_snake(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(c.to_ascii_uppercase());
    }
    text
}

fn check_enum(one: &EnumDescriptorProto) {
    let prefix = upper_snake(one.name());
    for value in &one.value {
        assert!(
            value.name().starts_with(&format!("{prefix}_")),
            "{} in {}",
            value.name(),
            one.name()
        );
    }
    let zero = one.value.iter().find(|value| value.number() == 0).unwrap();
    assert_eq!(zero.name(), format!("{prefix}_UNSPECIFIED"));
    assert!(
        !one.options
            .as_ref()
            .is_some_and(|options| options.allow_alias()),
        "{}",
        one.name()
    );
}

#[test]
fn names_are_formed_by_the_rules() {
    let lower = |name: &str| {
        name.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    for file in files() {
        file.enum_type.iter().for_each(check_enum);
        for message in &file.message_type {
            assert!(message.name().starts_with(|c: char| c.is_ascii_uppercase()));
            for field in &message.field {
                assert!(lower(field.name()), "{}.{}", message.name(), field.name());
            }
        }
        for service in &file.service {
            assert!(service.name().ends_with("Service"), "{}", service.name());
        }
    }
}

#[test]
fn each_call_has_a_request_and_a_response_of_its_own() {
    let mut used: BTreeMap<String, String> = BTreeMap::new();
    for file in files() {
        for method in file.service.iter().flat_map(|service| &service.method) {
            for (kind, ending) in [
                (method.input_type(), "Request"),
                (method.output_type(), "Response"),
            ] {
                let wanted = format!(".{PACKAGE}.{}{ending}", method.name());
                assert_eq!(kind, wanted);
                let before = used.insert(kind.to_owned(), method.name().to_owned());
                assert_eq!(before, None, "{kind} is used twice");
            }
        }
    }
    assert!(!used.is_empty());
}

/// Last words of numbers that count things or name them.
const COUNTS: [&str; 16] = [
    "count",
    "counts",
    "sequence",
    "version",
    "number",
    "index",
    "code",
    "state",
    "detail",
    "size",
    "max",
    "epoch",
    "deltas",
    "crc32c",
    "percentile",
    "values",
];
const UNITS: [&str; 9] = [
    "_hz",
    "_ms",
    "_ns",
    "_s",
    "_bytes",
    "_bytes_per_second",
    "_millionths",
    "_ratio",
    "_percent",
];
/// Their unit is told beside them, for it differs from one to the next.
const UNIT_BESIDE: [&str; 2] = ["Sample", "ResourceHeadroom"];

#[test]
fn a_number_on_the_wire_carries_its_unit_or_is_a_count() {
    use prost_types::field_descriptor_proto::Type;
    let numbers = [
        Type::Int32,
        Type::Int64,
        Type::Uint32,
        Type::Uint64,
        Type::Sint32,
        Type::Sint64,
    ];
    let mut bare = Vec::new();
    for message in files().iter().flat_map(|file| &file.message_type) {
        if UNIT_BESIDE.contains(&message.name()) {
            continue;
        }
        for field in message
            .field
            .iter()
            .filter(|field| numbers.contains(&field.r#type()))
        {
            let last = field.name().rsplit('_').next().unwrap();
            let has_unit = UNITS.iter().any(|unit| field.name().ends_with(unit));
            if !has_unit && !COUNTS.contains(&last) {
                bare.push(format!("{}.{}", message.name(), field.name()));
            }
        }
    }
    assert!(bare.is_empty(), "without a unit: {bare:?}");
}
