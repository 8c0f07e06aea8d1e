//! PURE: the Universal Scalability Law, fitted to measurements.
//!
//! X(N) = lambda N / (1 + contention (N - 1) + coherency N (N - 1)): N workers do X, one alone lambda
//! (Gunther, Guerrilla Capacity Planning, chapters 4 and 5). Turned over, N / X is linear in the three
//! unknowns, so the fit is an exact least-squares solution, of relative errors. Neither loss can be
//! negative: where one would come out so, it is zero and the others are fitted without it.

use serde::Serialize;

/// Fewer points than unknowns determine nothing, and as many leave no residual to judge by.
const POINTS_MIN: usize = 4;

/// So many workers did so much.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Point {
    pub(crate) workers: u32,
    pub(crate) rate: f64,
}

/// The law that fits best.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Scaling {
    /// What one worker does.
    pub(crate) alone: f64,
    /// The share that cannot be done side by side.
    pub(crate) contention: f64,
    /// What each worker costs each other.
    pub(crate) coherency: f64,
    /// The most workers of use; null if more are always of use.
    pub(crate) peak_workers: Option<f64>,
    /// For each point, how far the measurement lies above the law, as a share of it.
    pub(crate) residuals: Vec<f64>,
}

/// Fits the law; nothing with fewer than four different numbers of workers.
pub(crate) fn fit(points: &[Point]) -> Option<Scaling> {
    let mut numbers: Vec<_> = points.iter().map(|point| point.workers).collect();
    numbers.sort_unstable();
    numbers.dedup();
    if numbers.len() < POINTS_MIN || points.iter().any(|p| p.rate <= 0.0 || p.workers == 0) {
        return None;
    }
    [[true, true], [true, false], [false, true], [false, false]]
        .into_iter()
        .filter_map(|losses| solve(points, losses))
        .filter(|scaling| scaling.contention >= 0.0 && scaling.coherency >= 0.0)
        .min_by(|a, b| a.error().total_cmp(&b.error()))
}

/// The best fit with these losses; the others are zero.
fn solve(points: &[Point], losses: [bool; 2]) -> Option<Scaling> {
    // Each row, divided by the measured N / X, should come to one.
    let mut normal = [[0.0; 4]; 3];
    for point in points {
        let n = f64::from(point.workers);
        let scale = point.rate / n;
        let others = if losses[0] { n - 1.0 } else { 0.0 };
        let pairs = if losses[1] { n * (n - 1.0) } else { 0.0 };
        let row = [scale, scale * others, scale * pairs, 1.0];
        for (line, &factor) in normal.iter_mut().zip(&row) {
            for (cell, &value) in line.iter_mut().zip(&row) {
                *cell += factor * value;
            }
        }
    }
    // What is left out gets an equation of its own: it is zero.
    for (place, _) in losses.iter().enumerate().filter(|(_, kept)| !**kept) {
        normal[place + 1][place + 1] = 1.0;
    }
    let [base, contention, coherency] = gauss(normal)?;
    if base <= 0.0 {
        return None;
    }
    let mut scaling = Scaling {
        alone: 1.0 / base,
        contention: contention / base,
        coherency: coherency / base,
        peak_workers: None,
        residuals: Vec::new(),
    };
    scaling.residuals =
        points.iter().map(|p| p.rate / scaling.rate(p.workers.into()) - 1.0).collect();
    scaling.peak_workers = (scaling.coherency > 0.0 && scaling.contention < 1.0)
        .then(|| ((1.0 - scaling.contention) / scaling.coherency).sqrt());
    Some(scaling)
}

/// Solves three equations in three unknowns, the largest pivot first.
fn gauss(mut rows: [[f64; 4]; 3]) -> Option<[f64; 3]> {
    for at in 0..3 {
        let pivot = (at..3).max_by(|&a, &b| rows[a][at].abs().total_cmp(&rows[b][at].abs()))?;
        rows.swap(at, pivot);
        let lead = rows[at];
        if lead[at].abs() < 1e-12 {
            return None;
        }
        for (_, row) in rows.iter_mut().enumerate().filter(|(number, _)| *number != at) {
            let factor = row[at] / lead[at];
            row.iter_mut().zip(lead).for_each(|(cell, value)| *cell -= factor * value);
        }
    }
    Some([0, 1, 2].map(|at| rows[at][3] / rows[at][at]))
}

impl Scaling {
    /// What so many workers do by the law.
    pub(crate) fn rate(&self, workers: f64) -> f64 {
        let others = workers - 1.0;
        self.alone * workers / (1.0 + self.contention * others + self.coherency * workers * others)
    }

    fn error(&self) -> f64 {
        self.residuals.iter().map(|residual| residual * residual).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn law(alone: f64, contention: f64, coherency: f64, workers: &[u32]) -> Vec<Point> {
        let scaling =
            Scaling { alone, contention, coherency, peak_workers: None, residuals: vec![] };
        let point = |&workers: &u32| Point { workers, rate: scaling.rate(workers.into()) };
        workers.iter().map(point).collect()
    }

    #[test]
    fn a_law_is_found_again_in_its_own_figures() {
        for (contention, coherency) in [(0.03, 0.001), (0.2, 0.0), (0.0, 0.002), (0.0, 0.0)] {
            let points = law(11_000.0, contention, coherency, &[1, 2, 4, 8, 16]);
            let found = fit(&points).unwrap();
            assert!((found.alone / 11_000.0 - 1.0).abs() < 1e-6, "{found:?}");
            assert!((found.contention - contention).abs() < 1e-6, "{found:?}");
            assert!((found.coherency - coherency).abs() < 1e-8, "{found:?}");
            assert!(found.residuals.iter().all(|residual| residual.abs() < 1e-6));
        }
    }

    /// SPEC SDM91 on a Sun SPARCcenter 2000, as in chapter 5 of the book; published fits of it have
    /// a contention of 0.027 to 0.028, a coherency of 0.0001 and a peak at 84 to 96 users.
    #[test]
    fn published_measurements_give_the_published_law() {
        let measured = [
            (1, 64.9),
            (18, 995.9),
            (36, 1652.4),
            (72, 1853.2),
            (108, 1828.9),
            (144, 1775.0),
            (216, 1702.2),
        ];
        let points = measured.map(|(workers, rate)| Point { workers, rate });
        let found = fit(&points).unwrap();
        assert!((0.01..0.04).contains(&found.contention), "{found:?}");
        assert!((0.00005..0.0002).contains(&found.coherency), "{found:?}");
        assert!((75.0..110.0).contains(&found.peak_workers.unwrap()), "{found:?}");
        assert!(found.residuals.iter().all(|residual| residual.abs() < 0.15), "{found:?}");
    }

    #[test]
    fn scaling_beyond_proportion_gives_no_negative_loss() {
        let points = [(1, 10.0), (2, 21.0), (4, 43.0), (8, 88.0)];
        let found = fit(&points.map(|(workers, rate)| Point { workers, rate })).unwrap();
        assert_eq!((found.contention, found.coherency, found.peak_workers), (0.0, 0.0, None));
    }

    #[test]
    fn three_numbers_of_workers_determine_nothing() {
        assert_eq!(fit(&law(1.0, 0.1, 0.0, &[1, 2, 4, 4, 2])), None);
        assert_eq!(fit(&[]), None);
    }
}
