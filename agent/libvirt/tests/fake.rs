//! A fake daemon on the other end of a stream: what a client must survive.

#[cfg(test)]
mod stories {
    use plimsoll_libvirt::xdr::{Decoder, Encoder};
    use plimsoll_libvirt::{
        AuthType, CallError, Connection, DisconnectReason, DomainEventKind, EventId, ListFlags,
        OpenOptions,
    };
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const REMOTE: u32 = 0x2000_8086;
    const KEEPALIVE: u32 = 0x6b65_6570;
    const SECOND: Duration = Duration::from_secs(1);

    struct Frame {
        program: u32,
        number: i32,
        kind: u32,
        serial: u32,
        payload: Vec<u8>,
    }

    struct Daemon {
        stream: DuplexStream,
    }

    fn frame(program: u32, number: i32, words: [u32; 3], payload: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.u32(u32::try_from(28 + payload.len()).unwrap());
        encoder.u32(program);
        encoder.u32(1);
        encoder.i32(number);
        for word in words {
            encoder.u32(word);
        }
        [encoder.into_bytes(), payload.to_vec()].concat()
    }

    fn text(value: &str) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.string(value).unwrap();
        encoder.into_bytes()
    }

    fn word(value: u32) -> Vec<u8> {
        value.to_be_bytes().to_vec()
    }

    fn event(iteration: i32) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.i32(7);
        encoder.string("guest").unwrap();
        encoder.opaque(&[9; 16]);
        encoder.i32(3);
        encoder.i32(iteration);
        encoder.into_bytes()
    }

    impl Daemon {
        async fn next(&mut self) -> Frame {
            let mut head = [0; 28];
            self.stream.read_exact(&mut head).await.unwrap();
            let mut decoder = Decoder::new(&head);
            let length = usize::try_from(decoder.u32().unwrap()).unwrap();
            let program = decoder.u32().unwrap();
            assert_eq!(decoder.u32().unwrap(), 1);
            let number = decoder.i32().unwrap();
            let kind = decoder.u32().unwrap();
            let serial = decoder.u32().unwrap();
            let mut payload = vec![0; length - 28];
            self.stream.read_exact(&mut payload).await.unwrap();
            Frame {
                program,
                number,
                kind,
                serial,
                payload,
            }
        }

        async fn send(&mut self, bytes: &[u8]) {
            self.stream.write_all(bytes).await.unwrap();
        }

        async fn reply(&mut self, call: &Frame, status: u32, payload: &[u8]) {
            let bytes = frame(call.program, call.number, [1, call.serial, status], payload);
            self.send(&bytes).await;
        }

        async fn serve_handshake(&mut self, auth: &[u32], keepalive: u32) {
            let list = self.next().await;
            assert_eq!(list.number, 66);
            let mut types = word(u32::try_from(auth.len()).unwrap());
            auth.iter().for_each(|auth| types.extend(word(*auth)));
            self.reply(&list, 0, &types).await;
            if !auth.contains(&0) && !auth.is_empty() {
                return;
            }
            let feature = self.next().await;
            assert_eq!((feature.number, feature.payload.clone()), (60, word(10)));
            self.reply(&feature, 0, &word(keepalive)).await;
            let open = self.next().await;
            assert_eq!(open.number, 1);
            self.reply(&open, 0, &[]).await;
        }
    }

    async fn meet(
        options: OpenOptions,
        auth: &[u32],
        keepalive: u32,
    ) -> (Result<Connection, CallError>, Daemon) {
        let (near, far) = duplex(1 << 20);
        let mut daemon = Daemon { stream: far };
        let (connection, ()) = tokio::join!(
            Connection::open_stream(near, options),
            daemon.serve_handshake(auth, keepalive)
        );
        (connection, daemon)
    }

    async fn friends(options: OpenOptions) -> (Connection, Daemon) {
        let (connection, daemon) = meet(options, &[0], 0).await;
        (connection.unwrap(), daemon)
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_times_out_alone_and_its_late_reply_is_discarded() {
        let (connection, mut daemon) = friends(OpenOptions::default()).await;
        let (outcome, stuck) = tokio::join!(connection.hostname(SECOND), daemon.next());
        assert!(
            matches!(outcome, Err(CallError::TimedOut { .. })),
            "{outcome:?}"
        );
        assert_eq!(
            (connection.outstanding_calls(), connection.abandoned_calls()),
            (1, 1)
        );

        let serving = async {
            let next = daemon.next().await;
            daemon.reply(&stuck, 0, &text("late")).await;
            daemon.reply(&next, 0, &text("in time")).await;
        };
        let (outcome, ()) = tokio::join!(connection.hostname(SECOND), serving);
        assert_eq!(outcome.unwrap(), "in time");
        assert_eq!(
            (connection.outstanding_calls(), connection.late_replies()),
            (0, 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_call_counts_as_abandoned_until_it_is_answered() {
        let (connection, mut daemon) = friends(OpenOptions::default()).await;
        drop(tokio::time::timeout(SECOND / 2, connection.hostname(SECOND)).await);
        let call = daemon.next().await;
        assert_eq!(connection.abandoned_calls(), 1);
        daemon.reply(&call, 0, &text("late")).await;
        tokio::time::sleep(SECOND).await;
        assert_eq!(
            (connection.abandoned_calls(), connection.late_replies()),
            (0, 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn replies_in_another_order_reach_their_callers() {
        let (connection, mut daemon) = friends(OpenOptions::default()).await;
        let serving = async {
            let first = daemon.next().await;
            let second = daemon.next().await;
            let answer = |call: &Frame| text(if call.number == 59 { "host" } else { "QEMU" });
            daemon.reply(&second, 0, &answer(&second)).await;
            daemon.reply(&first, 0, &answer(&first)).await;
        };
        let (host, kind, ()) = tokio::join!(
            connection.hostname(SECOND),
            connection.hypervisor_type(SECOND),
            serving
        );
        assert_eq!(
            (host.unwrap().as_str(), kind.unwrap().as_str()),
            ("host", "QEMU")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_beyond_the_bound_is_never_sent() {
        let options = OpenOptions {
            calls_in_flight_max: 1,
            ..OpenOptions::default()
        };
        let (connection, mut daemon) = friends(options).await;
        let first = connection.hostname(SECOND).await;
        assert!(
            matches!(first, Err(CallError::TimedOut { .. })),
            "{first:?}"
        );
        let second = connection.hypervisor_type(SECOND).await;
        assert!(
            matches!(second, Err(CallError::Busy { outstanding: 1, .. })),
            "{second:?}"
        );
        assert_eq!(daemon.next().await.number, 59);
        let more = tokio::time::timeout(SECOND, daemon.next()).await;
        assert!(more.is_err());
    }

    async fn ended_by(bytes: &[u8]) -> (CallError, DisconnectReason) {
        let (connection, mut daemon) = friends(OpenOptions::default()).await;
        let serving = async {
            daemon.next().await;
            daemon.send(bytes).await;
            drop(daemon);
        };
        let (outcome, ()) = tokio::join!(connection.hostname(SECOND), serving);
        (outcome.unwrap_err(), connection.wait_ended().await)
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_break_the_protocol_end_the_connection() {
        let oversized = frame(REMOTE, 59, [1, 4, 0], &[]);
        let oversized: Vec<u8> = [&[0x7f, 0, 0, 0], &oversized[4..]].concat();
        let undersized: Vec<u8> = [word(8), vec![0; 64]].concat();
        let stray = frame(REMOTE, 59, [1, 999, 0], &text("?"));
        let wrong_procedure = frame(REMOTE, 3, [1, 4, 0], &text("?"));
        let call = frame(REMOTE, 59, [0, 4, 0], &[]);
        let truncated = frame(REMOTE, 59, [1, 4, 0], &text("host"))[..30].to_vec();
        let bad_event = frame(REMOTE, 318, [2, 0, 0], &[1, 2]);
        for bytes in [
            oversized,
            undersized,
            stray,
            wrong_procedure,
            call,
            truncated,
            bad_event,
            vec![0xff; 99],
        ] {
            let (error, reason) = ended_by(&bytes).await;
            assert!(error.is_disconnected(), "{bytes:?}: {error:?}");
            assert!(
                matches!(reason, DisconnectReason::Protocol { .. }),
                "{bytes:?}: {reason:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_leaves_fails_all_calls_at_once() {
        let (error, reason) = ended_by(&[]).await;
        assert!(error.is_disconnected(), "{error:?}");
        assert_eq!(reason, DisconnectReason::ClosedByDaemon);
    }

    #[tokio::test(start_paused = true)]
    async fn a_malformed_answer_fails_its_call_alone() {
        let (connection, mut daemon) = friends(OpenOptions::default()).await;
        let serving = async {
            let call = daemon.next().await;
            daemon.reply(&call, 0, &[0, 0, 0, 9, 1]).await;
        };
        let (outcome, ()) = tokio::join!(connection.hostname(SECOND), serving);
        assert!(
            matches!(outcome, Err(CallError::Protocol { .. })),
            "{outcome:?}"
        );
        assert_eq!(connection.ended(), None);
        let serving = async {
            let call = daemon.next().await;
            daemon.reply(&call, 0, &word(u32::MAX)).await;
        };
        let listing = connection.list_all_domains(ListFlags::ACTIVE, SECOND);
        let (outcome, ()) = tokio::join!(listing, serving);
        assert!(
            matches!(outcome, Err(CallError::Protocol { .. })),
            "{outcome:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_daemons_own_error_is_told_by_code_and_message() {
        let (connection, mut daemon) = friends(OpenOptions::default()).await;
        let mut error = Encoder::new();
        error.i32(42);
        error.i32(10);
        error.optional_string(Some("Domain not found")).unwrap();
        error.i32(2);
        (0..7).for_each(|_| error.u32(0));
        let error = error.into_bytes();
        let serving = async {
            let call = daemon.next().await;
            assert_eq!(call.payload, [5; 16]);
            daemon.reply(&call, 1, &error).await;
        };
        let (outcome, ()) =
            tokio::join!(connection.domain_lookup_by_uuid([5; 16], SECOND), serving);
        let error = outcome.unwrap_err();
        assert!(error.is_no_domain(), "{error:?}");
        assert_eq!(error.libvirt().unwrap().message, "Domain not found");
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_wants_authentication_is_named() {
        let (outcome, _daemon) = meet(OpenOptions::default(), &[2], 0).await;
        assert!(
            matches!(outcome, Err(CallError::PolkitRequired)),
            "{outcome:?}"
        );
        let (outcome, _daemon) = meet(OpenOptions::default(), &[1], 0).await;
        let auth = AuthType::Sasl;
        assert!(matches!(outcome, Err(CallError::AuthRequired { auth: a }) if a == auth));
    }

    #[tokio::test(start_paused = true)]
    async fn opening_a_silent_daemon_times_out() {
        let (near, _far) = duplex(1024);
        let outcome = Connection::open_stream(near, OpenOptions::default()).await;
        assert!(
            matches!(outcome, Err(CallError::TimedOut { .. })),
            "{outcome:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_is_answered_and_a_dead_daemon_is_noticed() {
        let options = OpenOptions {
            keepalive_interval: SECOND,
            keepalive_count: 2,
            ..OpenOptions::default()
        };
        let (connection, mut daemon) = meet(options, &[0], 1).await;
        let connection = connection.unwrap();
        assert!(connection.keeps_alive());
        daemon.send(&frame(KEEPALIVE, 1, [2, 0, 0], &[])).await;
        let pong = daemon.next().await;
        assert_eq!((pong.program, pong.number, pong.kind), (KEEPALIVE, 2, 2));
        for _ in 0..2 {
            let ping = daemon.next().await;
            assert_eq!((ping.program, ping.number, ping.kind), (KEEPALIVE, 1, 2));
        }
        let limit = tokio::time::timeout(2 * SECOND, connection.wait_ended()).await;
        assert_eq!(limit.unwrap(), DisconnectReason::KeepaliveTimeout);
        assert!(
            connection
                .hostname(SECOND)
                .await
                .unwrap_err()
                .is_disconnected()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_answers_pings_stays_connected() {
        let options = OpenOptions {
            keepalive_interval: SECOND,
            ..OpenOptions::default()
        };
        let (connection, mut daemon) = meet(options, &[0], 1).await;
        let connection = connection.unwrap();
        for _ in 0..10 {
            assert_eq!(daemon.next().await.number, 1);
            daemon.send(&frame(KEEPALIVE, 2, [2, 0, 0], &[])).await;
        }
        assert_eq!(connection.ended(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn events_beyond_the_bound_are_dropped_and_counted() {
        let options = OpenOptions {
            event_capacity: 2,
            ..OpenOptions::default()
        };
        let (connection, mut daemon) = friends(options).await;
        let serving = async {
            let call = daemon.next().await;
            assert_eq!(
                (call.number, call.payload.clone()),
                (316, [word(20), word(0)].concat())
            );
            daemon.reply(&call, 0, &word(7)).await;
            for iteration in 1..=5 {
                daemon
                    .send(&frame(REMOTE, 359, [2, 0, 0], &event(iteration)))
                    .await;
            }
        };
        let subscribing = connection.subscribe(&[EventId::MigrationIteration], SECOND);
        let (events, ()) = tokio::join!(subscribing, serving);
        let mut events = events.unwrap();
        tokio::time::sleep(SECOND).await;
        assert_eq!(events.dropped(), 3);
        for iteration in 1..=2 {
            let event = events.recv().await.unwrap();
            assert_eq!(
                (event.domain.name.as_str(), event.domain.id),
                ("guest", Some(3))
            );
            assert_eq!(
                event.kind,
                DomainEventKind::MigrationIteration { iteration }
            );
        }
        drop(connection);
        assert_eq!(events.recv().await, None);
    }

    #[tokio::test]
    async fn a_missing_socket_is_told_from_one_nobody_listens_on() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("sock");
        let outcome = Connection::open(&path, OpenOptions::default()).await;
        assert!(
            matches!(outcome, Err(CallError::SocketMissing { .. })),
            "{outcome:?}"
        );
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let outcome = Connection::open(&path, OpenOptions::default()).await;
        assert!(
            matches!(outcome, Err(CallError::NotListening { .. })),
            "{outcome:?}"
        );
    }
}
