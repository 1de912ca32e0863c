use std::convert::Infallible;

use plimsoll_proto::v1;
use tonic::Code;
use tower::ServiceExt as _;

use super::*;
use crate::scene::Scene;

fn calls() -> (Calls, Arc<Met>) {
    let met = Arc::<Met>::default();
    let clock = Scene::new().known.clock;
    let calls = Calls {
        met: Arc::clone(&met),
        clock,
    };
    (calls, met)
}

fn request(guest: &Guest) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    request.extensions_mut().insert(guest.clone());
    request
}

fn agent() -> Guest {
    Guest::new(Caller::Certified {
        role: Role::Node(plimsoll_model::NodeId::random()),
        name: "spiffe://site/node/a".to_owned(),
    })
}

/// A service that knows who calls, and whose answer is not taken at once.
async fn spoken_to(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    assert!(request.extensions().get::<Caller>().is_some());
    let body = http_body_util::Full::new(Bytes::from_static(b"said"));
    Ok(Response::new(Body::new(body)))
}

fn code(answer: &Response<Body>) -> Option<Code> {
    Status::from_header_map(answer.headers()).map(|status| status.code())
}

#[tokio::test]
async fn a_connection_has_so_many_calls_open_and_one_that_ends_makes_room() {
    for (guest, max) in [
        (agent(), OF_AGENT_MAX),
        (Guest::new(Caller::Local), STREAMS_MAX),
    ] {
        let (calls, met) = calls();
        let mut service = calls.layer(tower::service_fn(spoken_to));
        let mut open = Vec::new();
        for _ in 1..max {
            open.push(
                service
                    .ready()
                    .await
                    .unwrap()
                    .call(request(&guest))
                    .await
                    .unwrap(),
            );
        }
        open.push(service.call(request(&guest)).await.unwrap());
        assert!(open.iter().all(|answer| code(answer).is_none()));
        assert_eq!(met.count(Limit::Calls), 0);
        let beyond = service.call(request(&guest)).await.unwrap();
        assert_eq!(code(&beyond), Some(Code::ResourceExhausted));
        assert_eq!(met.count(Limit::Calls), 1);
        let other = service.call(request(&agent())).await.unwrap();
        assert_eq!(code(&other), None, "another connection has its own");
        open.pop();
        let again = service.call(request(&guest)).await.unwrap();
        assert_eq!(code(&again), None);
    }
}

#[tokio::test]
async fn headers_have_so_many_bytes() {
    let (calls, met) = calls();
    let mut service = calls.layer(tower::service_fn(spoken_to));
    let mut with_headers = async |bytes: usize| {
        let mut request = request(&agent());
        let name = "x";
        let least = request.uri().path().len() + name.len() + FIELD_BYTES;
        let value = "v".repeat(bytes - least).parse().unwrap();
        request.headers_mut().insert(name, value);
        code(&service.call(request).await.unwrap())
    };
    assert_eq!(with_headers(HEADERS_MAX - 1).await, None);
    assert_eq!(with_headers(HEADERS_MAX).await, None);
    assert_eq!(met.count(Limit::Headers), 0);
    let beyond = with_headers(HEADERS_MAX + 1).await;
    assert_eq!(beyond, Some(Code::ResourceExhausted));
    assert_eq!(met.count(Limit::Headers), 1);
}

type Selector = v1::SeriesSelector;

/// Says what it hears.
#[derive(Clone, Copy)]
struct Echo;

impl tonic::server::UnaryService<Selector> for Echo {
    type Response = Selector;
    type Future = std::future::Ready<Result<tonic::Response<Selector>, Status>>;

    fn call(&mut self, request: tonic::Request<Selector>) -> Self::Future {
        std::future::ready(Ok(tonic::Response::new(request.into_inner())))
    }
}

/// Has a message of so many bytes said to a service and back, each way with a limit or without; returns how it
/// ended.
async fn echo(calls: &Calls, bytes: usize, (heard, said): (Option<usize>, Option<usize>)) -> Code {
    use http_body_util::BodyExt as _;
    use prost::Message as _;
    // A tag and three or four bytes of length.
    let mut selector = Selector {
        metric: "m".repeat(bytes - 5),
        ..Selector::default()
    };
    selector
        .metric
        .truncate(selector.metric.len() + bytes - selector.encoded_len());
    assert_eq!(selector.encoded_len(), bytes);
    let mut framed = vec![0];
    framed.extend(u32::try_from(bytes).unwrap().to_be_bytes());
    selector.encode(&mut framed).unwrap();
    let service = tower::service_fn(move |request: Request<Body>| async move {
        let codec = tonic_prost::ProstCodec::<Selector, Selector>::default();
        let mut grpc = tonic::server::Grpc::new(codec).apply_max_message_size_config(heard, said);
        Ok::<_, Infallible>(grpc.unary(Echo, request).await)
    });
    let body = Body::new(http_body_util::Full::new(Bytes::from(framed)));
    let answer = calls.layer(service).call(request(&agent()).map(|_| body));
    let (head, body) = answer.await.unwrap().into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned();
    let told = Status::from_header_map(&head.headers)
        .or_else(|| Status::from_header_map(&trailers.unwrap_or_default()));
    told.unwrap().code()
}

#[tokio::test]
async fn messages_have_so_many_bytes_heard_and_said() {
    let max = MESSAGE_BYTES_MAX;
    for limits in [(Some(max), Some(max * 2)), (Some(max * 2), Some(max))] {
        let (calls, met) = calls();
        assert_eq!(echo(&calls, max - 1, limits).await, Code::Ok);
        assert_eq!(echo(&calls, max, limits).await, Code::Ok);
        assert_eq!(met.count(Limit::MessageBytes), 0);
        assert_eq!(echo(&calls, max + 1, limits).await, Code::OutOfRange);
        assert_eq!(met.count(Limit::MessageBytes), 1);
    }
}

#[tokio::test]
async fn what_a_service_says_to_be_out_of_range_is_no_message_too_long() {
    let (calls, met) = calls();
    let service = tower::service_fn(|_| async {
        let status = crate::page::status(Code::OutOfRange, "SAMPLES_FORGOTTEN", "gone");
        Ok::<_, Infallible>(status.into_http::<Body>())
    });
    let answer = calls.layer(service).call(request(&agent())).await.unwrap();
    assert_eq!(code(&answer), Some(Code::OutOfRange));
    assert_eq!(met.count(Limit::MessageBytes), 0);
}
