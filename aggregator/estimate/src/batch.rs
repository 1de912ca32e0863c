//! Many moves at once: what each gets of the links they share, and in which waves they are best run.
//! It estimates no single move; the caller does, with the bandwidth told here.

use plimsoll_model::Bandwidth;

/// Shares links among moves, max-min fair: nobody gets less so that somebody richer gets more.
///
/// `links` are capacities; each move names the links it crosses by their place. A move that crosses no
/// link is held back by none and gets the highest number; places that do not exist are passed over.
pub fn shares(links: &[Bandwidth], moves: &[Vec<usize>]) -> Vec<Bandwidth> {
    let mut left: Vec<u64> = links.iter().map(|link| link.bytes_per_second()).collect();
    let mut given: Vec<Option<u64>> = moves.iter().map(|_| None).collect();
    loop {
        let waiting = |link: usize, given: &[Option<u64>]| {
            let crossing = moves.iter().zip(given);
            let open = crossing.filter(|(path, given)| given.is_none() && path.contains(&link));
            u64::try_from(open.count()).unwrap_or(u64::MAX)
        };
        // The link that gives least to each is full first.
        let tightest = left
            .iter()
            .enumerate()
            .filter_map(|(link, left)| Some((left.checked_div(waiting(link, &given))?, link)))
            .min();
        let Some((share, tight)) = tightest else {
            break;
        };
        for (path, given) in moves.iter().zip(&mut given) {
            if given.is_none() && path.contains(&tight) {
                *given = Some(share);
                for (link, left) in left.iter_mut().enumerate() {
                    if path.contains(&link) {
                        *left = left.saturating_sub(share);
                    }
                }
            }
        }
    }
    let each = given.into_iter().map(|share| share.unwrap_or(u64::MAX));
    each.map(Bandwidth::from_bytes_per_second).collect()
}

/// How long a move takes with a bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lasting {
    /// As likely too short as too long.
    pub p50_ms: u64,
    /// Too long with a chance of 90 %.
    pub p90_ms: u64,
}

/// Moves that run at once, by their places among those asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wave {
    /// Which, what each gets, and how long it takes.
    pub moves: Vec<(usize, Bandwidth, Lasting)>,
    /// How long the wave lasts: as long as its longest move.
    pub lasting: Lasting,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Moves that run at once, at most.
    pub concurrency: usize,
    /// The waves, one after the other.
    pub waves: Vec<Wave>,
    /// How long all of them last.
    pub makespan: Lasting,
    /// Moves that do not end with the bandwidth they would get, even alone.
    pub stuck: Vec<usize>,
}

/// Finds the number of moves at once, 1 to `concurrency_max`, with which all are over soonest.
///
/// `lasting` estimates a move with a bandwidth, and gives nothing if it would not end. Where sharing keeps
/// a move from ending, it runs in a wave of its own. Times are not proportional: a guest that gets half
/// the bandwidth takes more than twice as long, because it changes meanwhile.
pub fn schedule(
    links: &[Bandwidth],
    moves: &[Vec<usize>],
    concurrency_max: usize,
    mut lasting: impl FnMut(usize, Bandwidth) -> Option<Lasting>,
) -> Schedule {
    let mut best: Option<Schedule> = None;
    for concurrency in 1..=concurrency_max.clamp(1, moves.len().max(1)) {
        let tried = with_concurrency(links, moves, concurrency, &mut lasting);
        let better = best.as_ref().is_none_or(|best| {
            (tried.stuck.len(), tried.makespan.p90_ms) < (best.stuck.len(), best.makespan.p90_ms)
        });
        if better {
            best = Some(tried);
        }
    }
    best.unwrap_or(Schedule {
        concurrency: 1,
        waves: Vec::new(),
        makespan: ZERO,
        stuck: Vec::new(),
    })
}

const ZERO: Lasting = Lasting {
    p50_ms: 0,
    p90_ms: 0,
};

fn with_concurrency(
    links: &[Bandwidth],
    moves: &[Vec<usize>],
    concurrency: usize,
    lasting: &mut impl FnMut(usize, Bandwidth) -> Option<Lasting>,
) -> Schedule {
    let mut schedule = Schedule {
        concurrency,
        waves: Vec::new(),
        makespan: ZERO,
        stuck: Vec::new(),
    };
    let all: Vec<usize> = (0..moves.len()).collect();
    for together in all.chunks(concurrency) {
        let (wave, left_out) = wave(links, moves, together, lasting);
        let mut waves = vec![wave];
        for alone in left_out {
            let (wave, stuck) = self::wave(links, moves, &[alone], lasting);
            waves.push(wave);
            schedule.stuck.extend(stuck);
        }
        for wave in waves.into_iter().filter(|wave| !wave.moves.is_empty()) {
            schedule.makespan.p50_ms += wave.lasting.p50_ms;
            schedule.makespan.p90_ms += wave.lasting.p90_ms;
            schedule.waves.push(wave);
        }
    }
    schedule
}

/// Runs moves together; returns those that would not end beside the others.
fn wave(
    links: &[Bandwidth],
    moves: &[Vec<usize>],
    together: &[usize],
    lasting: &mut impl FnMut(usize, Bandwidth) -> Option<Lasting>,
) -> (Wave, Vec<usize>) {
    let paths: Vec<Vec<usize>> = together
        .iter()
        .filter_map(|one| moves.get(*one).cloned())
        .collect();
    let mut wave = Wave {
        moves: Vec::new(),
        lasting: ZERO,
    };
    let mut left_out = Vec::new();
    for (one, share) in together.iter().zip(shares(links, &paths)) {
        match lasting(*one, share) {
            None => left_out.push(*one),
            Some(takes) => {
                wave.lasting.p50_ms = wave.lasting.p50_ms.max(takes.p50_ms);
                wave.lasting.p90_ms = wave.lasting.p90_ms.max(takes.p90_ms);
                wave.moves.push((*one, share, takes));
            }
        }
    }
    (wave, left_out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rates(all: &[u64]) -> Vec<Bandwidth> {
        all.iter()
            .map(|one| Bandwidth::from_bytes_per_second(*one))
            .collect()
    }

    #[test]
    fn who_is_held_back_elsewhere_leaves_the_rest_to_others() {
        // Three moves leave over link 0; the third arrives over a narrow link 1.
        let moves = [vec![0], vec![0], vec![0, 1]];
        assert_eq!(shares(&rates(&[90, 10]), &moves), rates(&[40, 40, 10]));
        assert_eq!(
            shares(&rates(&[90]), &[vec![], vec![7]]),
            rates(&[u64::MAX, u64::MAX])
        );
    }

    #[test]
    fn moves_that_keep_dirtying_memory_are_better_run_one_after_the_other() {
        let moves = vec![vec![0]; 4];
        // 100 bytes, dirtied at 20 per second: 100 / (rate - 20) seconds.
        let dirty = |_, rate: Bandwidth| {
            let spare = rate
                .bytes_per_second()
                .checked_sub(20)
                .filter(|spare| *spare > 0)?;
            let p50_ms = 100_000 / spare;
            Some(Lasting {
                p50_ms,
                p90_ms: p50_ms * 2,
            })
        };
        let best = schedule(&rates(&[100]), &moves, 4, dirty);
        assert_eq!(best.concurrency, 1);
        assert_eq!(best.makespan.p50_ms, 4 * 1_250);
        // A move whose own end is narrow gains by company.
        let narrow = [vec![0, 1], vec![0, 2]];
        let quiet = |_, rate: Bandwidth| {
            let p50_ms = 100_000 / rate.bytes_per_second();
            Some(Lasting {
                p50_ms,
                p90_ms: p50_ms,
            })
        };
        let best = schedule(&rates(&[100, 50, 50]), &narrow, 2, quiet);
        assert_eq!((best.concurrency, best.makespan.p50_ms), (2, 2_000));
    }

    #[test]
    fn a_move_that_ends_in_no_company_runs_alone_and_one_that_never_ends_is_named() {
        let moves = vec![vec![0]; 3];
        let takes = |one: usize, rate: Bandwidth| {
            let needed = [10, 60, 200].get(one).copied()?;
            let p50_ms = 10_000;
            (rate.bytes_per_second() >= needed).then_some(Lasting {
                p50_ms,
                p90_ms: p50_ms,
            })
        };
        let tried = with_concurrency(&rates(&[100]), &moves, 3, &mut { takes });
        assert_eq!(tried.stuck, [2]);
        assert_eq!(tried.waves.len(), 2);
    }

    proptest! {
        #[test]
        fn no_link_is_overdrawn_and_no_share_could_grow(
            links in prop::collection::vec(1_u64..1_000_000, 1..5),
            moves in prop::collection::vec(prop::collection::btree_set(0_usize..5, 1..4), 1..8),
        ) {
            let moves: Vec<Vec<usize>> = moves
                .into_iter()
                .map(|path| path.into_iter().map(|link| link % links.len()).collect::<std::collections::BTreeSet<_>>().into_iter().collect())
                .collect();
            let given = shares(&rates(&links), &moves);
            let crossing = |link: usize| moves.iter().zip(&given).filter(move |(path, _)| path.contains(&link));
            let load = |link: usize| crossing(link).map(|(_, share)| share.bytes_per_second()).sum::<u64>();
            for (link, capacity) in links.iter().enumerate() {
                prop_assert!(load(link) <= *capacity);
            }
            // Each move crosses a link that is full (but for what does not divide) where nobody has more.
            for (path, share) in moves.iter().zip(&given) {
                let held = path.iter().any(|link| {
                    let full = links[*link] - load(*link) < moves.len() as u64;
                    full && crossing(*link).all(|(_, other)| other.bytes_per_second() <= share.bytes_per_second() + moves.len() as u64)
                });
                prop_assert!(held, "{links:?} {moves:?} {given:?}");
            }
        }
    }
}
