//! The order in which those compared take turns.

/// The indices below `count` in the order of a round: in twice as many rounds everybody is first as often as everybody
/// else, and has either neighbour before him.
pub fn order(count: usize, round: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.rotate_left(usize::try_from(round / 2).unwrap_or(0) % count.max(1));
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_first_as_often_as_everybody_else() {
        for count in [2, 3, 4] {
            let mut first = vec![0; count];
            for round in 0..24 {
                first[order(count, round)[0]] += 1;
            }
            assert!(first.iter().all(|times| *times == 24 / count), "{first:?}");
        }
    }
}
