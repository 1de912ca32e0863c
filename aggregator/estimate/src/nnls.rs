//! Non-negative least squares for a handful of unknowns. Knows nothing of memory.

/// Sweeps over the unknowns at most; a handful settle long before.
const SWEEPS: usize = 400;
/// An unknown that moves by less than this share of the largest has settled: descent creeps along flat valleys, so a laxer share stops too early.
const SETTLED: f64 = 1e-6;
/// Weight of the pull towards zero relative to the data: it picks one solution where the data leave several.
const RIDGE: f64 = 1e-6;

/// One equation: sum of `coefficients` times unknowns is `value`, give or take `deviation`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Equation<const N: usize> {
    pub(crate) coefficients: [f64; N],
    pub(crate) value: f64,
    pub(crate) deviation: f64,
}

/// Minimises the weighted squares with no unknown below zero, by cyclic coordinate descent
/// on the normal equations; the problem is convex, so the order of the unknowns does not matter in the end.
pub(crate) fn solve<const N: usize>(equations: &[Equation<N>]) -> [f64; N] {
    let normal = Normal::of(equations);
    descend(&normal.gram, &normal.right, normal.ridge)
}

/// The same for unknowns that add up to `sum`: what one gains another loses, pair by pair.
pub(crate) fn solve_adding_up_to<const N: usize>(equations: &[Equation<N>], sum: f64) -> [f64; N] {
    let normal = Normal::of(equations);
    let mut solution = [sum / N as f64; N];
    for _ in 0..SWEEPS {
        let mut moved: f64 = 0.0;
        for one in 0..N {
            for other in 0..one {
                moved = moved.max(normal.exchange(&mut solution, one, other));
            }
        }
        if moved <= sum * SETTLED {
            break;
        }
    }
    solution
}

/// The normal equations of a problem, and the pull towards zero that suits their size.
struct Normal<const N: usize> {
    gram: [[f64; N]; N],
    right: [f64; N],
    ridge: f64,
}

impl<const N: usize> Normal<N> {
    fn of(equations: &[Equation<N>]) -> Self {
        let mut gram = [[0.0; N]; N];
        let mut right = [0.0; N];
        for equation in equations {
            let weight = 1.0 / equation.deviation.max(1e-9).powi(2);
            for ((row, right), a) in gram.iter_mut().zip(&mut right).zip(equation.coefficients) {
                *right += weight * a * equation.value;
                for (cell, b) in row.iter_mut().zip(equation.coefficients) {
                    *cell += weight * a * b;
                }
            }
        }
        let mut ridge = 0.0;
        for (at, row) in gram.iter().enumerate() {
            ridge += row.get(at).copied().unwrap_or(0.0) * RIDGE / N as f64;
        }
        Self { gram, right, ridge }
    }

    /// How steeply the squares rise with an unknown.
    fn slope(&self, solution: &[f64; N], at: usize) -> Option<f64> {
        let row = self.gram.get(at)?;
        let dot: f64 = row.iter().zip(solution).map(|(g, x)| g * x).sum();
        Some(dot + self.ridge * solution.get(at)? - self.right.get(at)?)
    }

    /// Moves from one unknown to another what makes the squares least; returns how much that was.
    fn exchange(&self, solution: &mut [f64; N], one: usize, other: usize) -> f64 {
        let cell = |row: usize, column: usize| self.gram.get(row)?.get(column).copied();
        let step = || {
            let bend = cell(one, one)? + cell(other, other)? - 2.0 * cell(one, other)?;
            let steep = self.slope(solution, other)? - self.slope(solution, one)?;
            let least = -solution.get(one)?;
            let most = *solution.get(other)?;
            Some((steep / (bend + 2.0 * self.ridge).max(f64::MIN_POSITIVE)).clamp(least, most))
        };
        let step = step().unwrap_or(0.0);
        for (at, gain) in [(one, step), (other, -step)] {
            if let Some(slot) = solution.get_mut(at) {
                *slot = (*slot + gain).max(0.0);
            }
        }
        step.abs()
    }
}

fn descend<const N: usize>(gram: &[[f64; N]; N], right: &[f64; N], ridge: f64) -> [f64; N] {
    let mut solution = [0.0; N];
    for _ in 0..SWEEPS {
        let mut moved: f64 = 0.0;
        let mut largest: f64 = 0.0;
        for (at, (row, right)) in gram.iter().zip(right).enumerate() {
            let dot: f64 = row.iter().zip(&solution).map(|(g, x)| g * x).sum();
            let Some(own) = row.get(at).copied().filter(|own| *own > 0.0) else {
                continue;
            };
            let Some(slot) = solution.get_mut(at) else {
                continue;
            };
            let next = (*slot + (right - dot - ridge * *slot) / (own + ridge)).max(0.0);
            moved = moved.max((next - *slot).abs());
            largest = largest.max(next);
            *slot = next;
        }
        if moved <= largest * SETTLED {
            break;
        }
    }
    solution
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
        assert!((held[0] - 4.0).abs() < 1e-6 && held[1] < 1e-6, "{held:?}");
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
