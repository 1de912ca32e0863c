//! Devices that answer wrongly: late, twice, under another number, cut short, shuffled, for ever.

use std::sync::{Arc, Mutex};

use plimsoll_agent::source::snmp::session::AskError;

use crate::fake::{Fake, device, hold_ports, is_up, switch};
use crate::wire::{GET, Question, Value};

const PORTS: u32 = 5;
/// Readings of one port: bytes, packets, both ways, and speed, state, size.
const READINGS: usize = 7;

#[tokio::test]
async fn an_honest_device_is_read_whole() {
    let fake = Fake::honest(PORTS).await;
    let look = device(&fake).look().await;
    assert!(is_up(&look));
    assert_eq!(hold_ports(&look), READINGS * PORTS as usize);
    assert_eq!(look.device_facts[0].system_name.as_deref(), Some("fake"));
}

#[tokio::test]
async fn answers_that_come_late_twice_or_under_another_number_are_nobody_s() {
    let mut before: Vec<Vec<u8>> = Vec::new();
    let fake = Fake::bent(
        PORTS,
        Box::new(move |question, honest| {
            // The answers to the last questions first, then one under a number that was not asked, then
            // the true one, twice.
            let mut all = before.clone();
            before.push(honest.clone());
            if before.len() > 3 {
                before.remove(0);
            }
            let lie = vec![(question.names[0].clone(), Value::Counter64(666))];
            all.push(question.answer(question.id ^ 0x5555, &lie));
            all.extend([honest.clone(), honest]);
            all
        }),
    )
    .await;
    let mut device = device(&fake);
    for _ in 0..20 {
        let look = device.look().await;
        assert!(is_up(&look), "{:?}", device.error());
        assert_eq!(hold_ports(&look), READINGS * PORTS as usize);
    }
}

#[tokio::test]
async fn an_answer_that_misses_its_deadline_is_asked_for_again_and_never_taken_for_the_next() {
    let held: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let mut number = 0;
    let fake = Fake::bent(
        PORTS,
        Box::new(move |_, honest| {
            number += 1;
            let mut held = held.lock().unwrap();
            if number % 5 == 0 {
                // Comes only with the next question, too late for its own.
                held.push(honest);
                return Vec::new();
            }
            let mut all = std::mem::take(&mut *held);
            all.push(honest);
            all
        }),
    )
    .await;
    let mut device = device(&fake);
    for _ in 0..5 {
        let look = device.look().await;
        assert!(is_up(&look), "{:?}", device.error());
        assert_eq!(hold_ports(&look), READINGS * PORTS as usize);
    }
}

async fn error_of(fake: &Fake) -> AskError {
    let mut device = device(fake);
    let look = device.look().await;
    assert!(!is_up(&look));
    assert_eq!(hold_ports(&look), 0);
    device.error().unwrap().clone()
}

#[tokio::test]
async fn an_answer_with_other_names_is_refused_whole() {
    let fake = Fake::bent(
        PORTS,
        Box::new(|question, honest| {
            if question.kind != GET {
                return vec![honest];
            }
            let mut names = question.names.clone();
            names.reverse();
            let lie: Vec<_> = names
                .into_iter()
                .map(|name| (name, Value::Ticks(7)))
                .collect();
            vec![question.answer(question.id, &lie)]
        }),
    )
    .await;
    assert!(matches!(error_of(&fake).await, AskError::Nonsense { .. }));
}

#[tokio::test]
async fn a_walk_that_does_not_go_forward_ends_at_once() {
    let fake = Fake::bent(
        PORTS,
        Box::new(|question, honest| {
            if question.kind == GET {
                return vec![honest];
            }
            let first = [question.names[0].as_slice(), &[1]].concat();
            let same: Vec<_> = (0..40).map(|_| (first.clone(), Value::Gauge(1))).collect();
            vec![question.answer(question.id, &same)]
        }),
    )
    .await;
    assert!(matches!(error_of(&fake).await, AskError::Nonsense { .. }));
    assert!(*fake.questions.lock().unwrap() < 5);
}

#[tokio::test]
async fn answers_that_are_cut_short_are_no_answers() {
    let fake = Fake::bent(
        PORTS,
        Box::new(|_, honest| vec![honest[..honest.len() - 7].to_vec(), vec![0x30, 0x89]]),
    )
    .await;
    assert!(matches!(
        error_of(&fake).await,
        AskError::Silent | AskError::Nonsense { .. }
    ));
}

/// Changes a few bytes, cuts, or doubles a part.
fn mutated(random: &mut fastrand::Rng, honest: &[u8]) -> Vec<u8> {
    let mut packet = honest.to_vec();
    for _ in 0..random.usize(1..4) {
        let place = random.usize(..packet.len());
        match random.u8(..4) {
            0 => packet[place] ^= 1 << random.u8(..8),
            1 => packet[place] = random.u8(..),
            2 => packet.truncate(place.max(1)),
            _ => packet.extend_from_within(place..),
        }
    }
    packet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_answers_hurt_nobody_and_the_true_one_behind_them_is_heard() {
    const POLLS: u32 = 200;
    let mut random = fastrand::Rng::with_seed(11);
    let (sent, table) = (Arc::new(Mutex::new(0_u64)), switch(PORTS));
    let count = Arc::clone(&sent);
    let fake = Fake::bent(
        PORTS,
        Box::new(move |question: &Question, honest| {
            // Under another number none of them can be the answer, whatever else they say.
            let other = question.answer(question.id ^ 0x5555, &question.bindings(&table));
            let mut all: Vec<_> = (0..20).map(|_| mutated(&mut random, &other)).collect();
            *count.lock().unwrap() += 20;
            all.push(honest);
            all
        }),
    )
    .await;
    let mut device = device(&fake);
    let mut whole = 0;
    for _ in 0..POLLS {
        let look = device.look().await;
        hold_ports(&look);
        whole += u32::from(is_up(&look));
    }
    let sent = *sent.lock().unwrap();
    println!("{sent} mutated answers: 0 panics, 0 wrong values, {whole} of {POLLS} polls whole");
    assert!(sent >= 20_000 && whole == POLLS, "{sent} {whole}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_answers_under_the_right_number_never_stop_the_poller() {
    let mut random = fastrand::Rng::with_seed(12);
    let fake = Fake::bent(
        PORTS,
        Box::new(move |_, honest| vec![mutated(&mut random, &honest), honest]),
    )
    .await;
    let mut device = device(&fake);
    let mut whole = 0;
    for _ in 0..300 {
        // What a device itself says falsely cannot be told from the truth; that it says it of a port it
        // was not asked for can.
        let look = device.look().await;
        assert!(look.sweeps.iter().all(|sweep| sweep.values.len() < 64));
        whole += u32::from(is_up(&look));
    }
    println!("{whole} of 300 polls of a device that lies went through");
    assert!(whole > 30, "{whole}");
}
