//! Non-negative least squares for a handful of unknowns. Knows nothing of memory.

/// Weight of the pull towards zero relative to the data: it picks one solution where the data leave several.
const RIDGE: f64 = 1e-6;
/// How much more closely a sum is kept than any equation of the data.
const SUM_WEIGHT: f64 = 1e6;
/// A slope below this share of the steepest is level.
const LEVEL: f64 = 1e-9;

/// One equation: sum of `coefficients` times unknowns is `value`, give or take `deviation`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Equation<const N: usize> {
    pub(crate) coefficients: [f64; N],
    pub(crate) value: f64,
    pub(crate) deviation: f64,
}

/// Minimises the weighted squares with no unknown below zero.
pub(crate) fn solve<const N: usize>(equations: &[Equation<N>]) -> [f64; N] {
    Normal::of(equations).solve()
}

/// The same for unknowns that add up to `sum`.
pub(crate) fn solve_adding_up_to<const N: usize>(equations: &[Equation<N>], sum: f64) -> [f64; N] {
    let mut normal = Normal::of(equations);
    let steepest = normal
        .gram
        .iter()
        .flatten()
        .fold(0.0, |most: f64, cell| most.max(*cell));
    normal.add(&[1.0; N], sum, steepest.max(f64::MIN_POSITIVE) * SUM_WEIGHT);
    normal.solve()
}

/// The normal equations of a problem.
struct Normal<const N: usize> {
    gram: [[f64; N]; N],
    right: [f64; N],
}

impl<const N: usize> Normal<N> {
    fn of(equations: &[Equation<N>]) -> Self {
        let mut normal = Self {
            gram: [[0.0; N]; N],
            right: [0.0; N],
        };
        for equation in equations {
            let weight = 1.0 / equation.deviation.max(1e-9).powi(2);
            normal.add(&equation.coefficients, equation.value, weight);
        }
        let trace: f64 = normal
            .gram
            .iter()
            .enumerate()
            .filter_map(|(at, row)| row.get(at))
            .sum();
        let ridge = trace * RIDGE / N as f64;
        for (at, row) in normal.gram.iter_mut().enumerate() {
            if let Some(cell) = row.get_mut(at) {
                *cell += ridge;
            }
        }
        normal
    }

    fn add(&mut self, coefficients: &[f64; N], value: f64, weight: f64) {
        for ((row, right), a) in self.gram.iter_mut().zip(&mut self.right).zip(coefficients) {
            *right += weight * a * value;
            for (cell, b) in row.iter_mut().zip(coefficients) {
                *cell += weight * a * b;
            }
        }
    }

    /// The active-set method of Lawson and Hanson (1974, chapter 23): unknowns are freed one by one, the one
    /// with the steepest slope first, and bound to zero again where the free solution would go below it.
    fn solve(&self) -> [f64; N] {
        let mut solution = [0.0; N];
        let mut free = [false; N];
        let steepest = self
            .right
            .iter()
            .fold(0.0, |most: f64, right| most.max(right.abs()));
        // Each round frees one for good or almost; three times as many rounds as unknowns end every case.
        for _ in 0..3 * N {
            let Some(next) = self.steepest_bound(&solution, &free, steepest * LEVEL) else {
                break;
            };
            if let Some(slot) = free.get_mut(next) {
                *slot = true;
            }
            for _ in 0..N {
                let wanted = self.solve_free(&free);
                if !step_towards(&wanted, &mut solution, &mut free) {
                    break;
                }
            }
        }
        solution
    }

    /// Finds the bound unknown whose growth lowers the squares most.
    fn steepest_bound(&self, solution: &[f64; N], free: &[bool; N], level: f64) -> Option<usize> {
        let slopes = self.gram.iter().zip(&self.right).map(|(row, right)| {
            let dot: f64 = row.iter().zip(solution).map(|(g, x)| g * x).sum();
            right - dot
        });
        slopes
            .zip(free)
            .enumerate()
            .filter(|(_, (slope, free))| !**free && *slope > level)
            .max_by(|(_, (one, _)), (_, (other, _))| one.total_cmp(other))
            .map(|(at, _)| at)
    }

    /// Solves for the free unknowns alone, by elimination; the matrix is positive definite.
    #[expect(
        clippy::indexing_slicing,
        clippy::needless_range_loop,
        reason = "all places are below N, and elimination reads best with them"
    )]
    fn solve_free(&self, free: &[bool; N]) -> [f64; N] {
        let (mut gram, mut right) = (self.gram, self.right);
        for at in 0..N {
            if !free[at] {
                right[at] = 0.0;
                for other in 0..N {
                    gram[at][other] = 0.0;
                    gram[other][at] = 0.0;
                }
                gram[at][at] = 1.0;
            }
        }
        for pivot in 0..N {
            for below in pivot + 1..N {
                let factor = gram[below][pivot] / gram[pivot][pivot];
                for column in pivot..N {
                    gram[below][column] -= factor * gram[pivot][column];
                }
                right[below] -= factor * right[pivot];
            }
        }
        for at in (0..N).rev() {
            let known: f64 = (at + 1..N)
                .map(|other| gram[at][other] * right[other])
                .sum();
            right[at] = (right[at] - known) / gram[at][at];
        }
        right
    }
}

/// Goes as far towards the wanted solution as no unknown falls below zero, and binds those that reach it;
/// tells whether it had to stop on the way.
fn step_towards<const N: usize>(
    wanted: &[f64; N],
    solution: &mut [f64; N],
    free: &mut [bool; N],
) -> bool {
    let mut share = 1.0;
    for ((wanted, is), free) in wanted.iter().zip(solution.iter()).zip(free.iter()) {
        if *free && *wanted <= 0.0 {
            share = f64::min(share, is / (is - wanted).max(f64::MIN_POSITIVE));
        }
    }
    let stopped = wanted
        .iter()
        .zip(free.iter())
        .any(|(wanted, free)| *free && *wanted <= 0.0);
    for ((wanted, is), free) in wanted.iter().zip(solution.iter_mut()).zip(free.iter_mut()) {
        if *free {
            *is += share * (wanted - *is);
            if stopped && *wanted <= 0.0 && *is <= wanted.abs() * LEVEL {
                *is = 0.0;
                *free = false;
            }
        }
    }
    stopped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_adds_up_is_spread_so_that_the_equations_hold_best() {
        let equation = |coefficients, value| Equation {
            coefficients,
            value,
            deviation: 1.0,
        };
        // On x + y + z = 6 both equations hold for (1, 2, 3).
        let equations = [
            equation([1.0, 0.0, 0.0], 1.0),
            equation([0.0, 1.0, -1.0], -1.0),
        ];
        let spread = solve_adding_up_to(&equations, 6.0);
        for (is, should) in spread.iter().zip([1.0, 2.0, 3.0]) {
            assert!((is - should).abs() < 1e-3, "{spread:?}");
        }
        let tilted = Equation {
            coefficients: [1.0, -1.0],
            value: 9.0,
            deviation: 1.0,
        };
        let held = solve_adding_up_to(&[tilted], 4.0);
        assert!((held[0] - 4.0).abs() < 1e-4 && held[1] < 1e-6, "{held:?}");
    }

    #[test]
    fn a_solution_without_negatives_is_found_and_a_negative_one_is_held_at_zero() {
        let equation = |coefficients, value| Equation {
            coefficients,
            value,
            deviation: 1.0,
        };
        let exact = solve(&[equation([1.0, 2.0], 5.0), equation([3.0, 1.0], 5.0)]);
        assert!(
            (exact[0] - 1.0).abs() < 1e-3 && (exact[1] - 2.0).abs() < 1e-3,
            "{exact:?}"
        );
        let held = solve(&[equation([1.0, 1.0], 1.0), equation([1.0, 2.0], 0.5)]);
        assert!(held[1] < 1e-9 && held[0] > 0.7, "{held:?}");
    }
}
