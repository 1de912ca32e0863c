//! Any gRPC client can find out what is served: reflection, old and new, up to the last descriptor.

use prost::Message as _;
use prost_types::FileDescriptorProto;
use tonic::transport::Channel;
use tonic_reflection::pb::{v1, v1alpha};

use crate::house::aggregator;

const SERVICES: [&str; 5] = [
    "grpc.health.v1.Health",
    "plimsoll.v1.EstimateService",
    "plimsoll.v1.IngestService",
    "plimsoll.v1.PlannerService",
    "plimsoll.v1.QueryService",
];

/// Asks one question of one generation of the reflection service; the two differ only in their module.
macro_rules! ask {
    ($generation:ident, $channel:expr, $question:ident, $text:expr) => {{
        use $generation::server_reflection_client::ServerReflectionClient;
        use $generation::server_reflection_request::MessageRequest;
        let request = $generation::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::$question($text.to_owned())),
        };
        let mut answers = ServerReflectionClient::new($channel.clone())
            .server_reflection_info(tokio_stream::once(request))
            .await
            .unwrap()
            .into_inner();
        answers
            .message()
            .await
            .unwrap()
            .unwrap()
            .message_response
            .unwrap()
    }};
}

/// Lists services and fetches the files of each, as `grpcurl describe` does; returns both.
macro_rules! describe {
    ($generation:ident, $channel:expr) => {{
        use $generation::server_reflection_response::MessageResponse;
        let MessageResponse::ListServicesResponse(listed) =
            ask!($generation, $channel, ListServices, "")
        else {
            panic!("no list of services")
        };
        let services: Vec<String> = listed.service.into_iter().map(|one| one.name).collect();
        let mut files = Vec::new();
        for service in &services {
            let MessageResponse::FileDescriptorResponse(found) =
                ask!($generation, $channel, FileContainingSymbol, service)
            else {
                panic!("no file holds {service}")
            };
            files.extend(found.file_descriptor_proto);
        }
        let mut next = 0;
        // What a file imports is asked for by name, until nothing new comes.
        while next < files.len() {
            let file = FileDescriptorProto::decode(files[next].as_slice()).unwrap();
            for import in file.dependency {
                let known = files.iter().any(|bytes| {
                    FileDescriptorProto::decode(bytes.as_slice())
                        .unwrap()
                        .name()
                        == import
                });
                if !known {
                    let MessageResponse::FileDescriptorResponse(found) =
                        ask!($generation, $channel, FileByFilename, import)
                    else {
                        panic!("no file {import}")
                    };
                    files.extend(found.file_descriptor_proto);
                }
            }
            next += 1;
        }
        (services, files)
    }};
}

fn check(generation: &str, services: &[String], files: &[Vec<u8>]) {
    for wanted in SERVICES {
        assert!(
            services.iter().any(|one| one == wanted),
            "{generation}: {wanted} of {services:?}"
        );
    }
    let mut names: Vec<String> = Vec::new();
    let mut used: Vec<String> = Vec::new();
    for bytes in files {
        let file = FileDescriptorProto::decode(bytes.as_slice()).unwrap();
        for message in &file.message_type {
            declare(
                &format!(".{}", file.package()),
                message,
                &mut names,
                &mut used,
            );
        }
        names.extend(
            file.enum_type
                .iter()
                .map(|one| format!(".{}.{}", file.package(), one.name())),
        );
        for method in file.service.iter().flat_map(|service| &service.method) {
            used.push(method.input_type().to_owned());
            used.push(method.output_type().to_owned());
        }
    }
    assert!(names.len() > 50, "{generation}: only {names:?}");
    for one in used {
        assert!(
            names.contains(&one),
            "{generation}: nothing tells what {one} is"
        );
    }
}

/// Collects the types a message declares and those its fields use.
fn declare(
    scope: &str,
    message: &prost_types::DescriptorProto,
    names: &mut Vec<String>,
    used: &mut Vec<String>,
) {
    let own = format!("{scope}.{}", message.name());
    let types = message
        .field
        .iter()
        .filter_map(|field| field.type_name.clone());
    used.extend(types);
    names.extend(
        message
            .enum_type
            .iter()
            .map(|one| format!("{own}.{}", one.name())),
    );
    for inner in &message.nested_type {
        declare(&own, inner, names, used);
    }
    names.push(own);
}

#[test]
fn both_generations_of_reflection_tell_every_service_down_to_the_last_type() {
    let dir = tempfile::tempdir().unwrap();
    let (_house, url) = aggregator(dir.path());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        let (services, files) = describe!(v1, channel);
        check("v1", &services, &files);
        let (services, files) = describe!(v1alpha, channel);
        check("v1alpha", &services, &files);
    });
}
