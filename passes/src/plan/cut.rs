//! Minimum cut of a directed graph with capacities (Dinic 1970): breadth-first levels, then blocking flow
//! by depth-first search, without recursion since chains can be thousands of operators long.

/// A capacity that is never worth cutting.
pub(super) const INFINITE: u64 = u64::MAX / 4;

/// A flow network. Node 0 is the source, node 1 the sink.
pub(super) struct Network {
    /// Edges in pairs: `2k` forward and `2k + 1` its reverse.
    to: Vec<u32>,
    capacity: Vec<u64>,
    edges: Vec<Vec<u32>>,
}

/// The source: the side of integers.
pub(super) const SOURCE: u32 = 0;
/// The sink: the side of float.
pub(super) const SINK: u32 = 1;

impl Network {
    /// A network of the source and the sink.
    pub(super) fn new() -> Network {
        Network { to: Vec::new(), capacity: Vec::new(), edges: vec![Vec::new(), Vec::new()] }
    }

    /// Adds a node.
    pub(super) fn node(&mut self) -> u32 {
        self.edges.push(Vec::new());
        self.edges.len() as u32 - 1
    }

    /// Adds an edge: cutting it, with `from` on the source's side and `to` on the sink's, costs
    /// `capacity`.
    pub(super) fn edge(&mut self, from: u32, to: u32, capacity: u64) {
        for (a, b, c) in [(from, to, capacity), (to, from, 0)] {
            self.edges[a as usize].push(self.to.len() as u32);
            self.to.push(b);
            self.capacity.push(c);
        }
    }

    /// For each node, whether it is on the source's side of the minimum cut (of the smallest such side).
    pub(super) fn cut(mut self) -> Vec<bool> {
        loop {
            let level = self.levels();
            if level[SINK as usize] == u32::MAX {
                return level.into_iter().map(|l| l != u32::MAX).collect();
            }
            self.blocking_flow(&level);
        }
    }

    fn levels(&self) -> Vec<u32> {
        let mut level = vec![u32::MAX; self.edges.len()];
        level[SOURCE as usize] = 0;
        let mut queue = std::collections::VecDeque::from([SOURCE]);
        while let Some(n) = queue.pop_front() {
            for e in &self.edges[n as usize] {
                let to = self.to[*e as usize] as usize;
                if self.capacity[*e as usize] > 0 && level[to] == u32::MAX {
                    level[to] = level[n as usize] + 1;
                    queue.push_back(to as u32);
                }
            }
        }
        level
    }

    fn blocking_flow(&mut self, level: &[u32]) {
        let mut next = vec![0usize; self.edges.len()];
        let mut path: Vec<u32> = Vec::new();
        loop {
            let at = path.last().map_or(SOURCE, |e| self.to[*e as usize]);
            if at == SINK {
                let flow = path.iter().map(|e| self.capacity[*e as usize]).min().unwrap_or(0);
                for e in &path {
                    self.capacity[*e as usize] -= flow;
                    self.capacity[(*e ^ 1) as usize] += flow;
                }
                // Go on from before the first edge that is now full.
                let full = path.iter().position(|e| self.capacity[*e as usize] == 0).unwrap_or(0);
                path.truncate(full);
                continue;
            }
            let here = at as usize;
            let step = self.edges[here].iter().skip(next[here]).position(|e| {
                let to = self.to[*e as usize] as usize;
                self.capacity[*e as usize] > 0 && level[to] == level[here] + 1
            });
            match step {
                Some(skip) => {
                    next[here] += skip;
                    path.push(self.edges[here][next[here]]);
                }
                None => {
                    next[here] = self.edges[here].len();
                    // A dead end: leave it for good, unless it is the source, and then all is done.
                    let Some(e) = path.pop() else { return };
                    next[self.to[(e ^ 1) as usize] as usize] += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheaper_side_wins_unless_joining_costs_more() {
        // a prefers integers by 10, b prefers float by 3; parting them costs 5.
        let build = |part: u64| {
            let mut n = Network::new();
            let (a, b) = (n.node(), n.node());
            n.edge(SOURCE, a, 10);
            n.edge(b, SINK, 3);
            n.edge(a, b, part);
            let cut = n.cut();
            (cut[a as usize], cut[b as usize])
        };
        assert_eq!(build(5), (true, true));
        assert_eq!(build(2), (true, false));
    }

    #[test]
    fn agrees_with_brute_force_on_small_networks() {
        let mut seed = 1u64;
        let mut rand = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for _ in 0..200 {
            let nodes = 6u32;
            let edges: Vec<(u32, u32, u64)> =
                (0..14).map(|_| (rand(6) as u32, rand(6) as u32, rand(9))).filter(|e| e.0 != e.1).collect();
            let weight = |side: &dyn Fn(u32) -> bool| -> u64 {
                edges.iter().filter(|e| side(e.0) && !side(e.1)).map(|e| e.2).sum()
            };
            let best = (0..1u32 << nodes)
                .filter(|m| m & 1 != 0 && m & 2 == 0)
                .map(|m| weight(&|n| m >> n & 1 != 0))
                .min()
                .unwrap();
            let mut network = Network::new();
            for _ in 2..nodes {
                network.node();
            }
            for (a, b, c) in &edges {
                network.edge(*a, *b, *c);
            }
            let cut = network.cut();
            assert_eq!(weight(&|n| cut[n as usize]), best);
        }
    }
}
