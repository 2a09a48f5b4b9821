"""Speed and memory of the terrain path, both sides of every comparison measured in one run

    python benchmarks/bench_terrain.py --out benchmarks/terrain.json             # everything, a few minutes
    python benchmarks/bench_terrain.py --quick --only costmap                    # smaller sizes, one group

The slow sides are plain versions of the originals' rules, kept in tests/terrain_reference.py; the tests prove that both sides give the same result.
Every group runs in a process of its own; see harness.py.
"""
import os, sys
from harness import alternate, entry, group, main


@group
def costmap(quick):
    """Costs of one bird's-eye image of the original's size, 64-px tiles, stride 32: our tiles against tiles cut one by one.

    Slow side: Python loops cut every complete tile, test its pixels for black, skip those less than half visible, and price batches of 32 with the
    network as trained in eval mode. Fast side: `CostMapper` with border='keep', the same tiles and the same costs. The visible tiles are known from the geometry.
    """
    import numpy as np, torch
    from terrain_bench import spot_bev
    from terrain_reference import slow_costs
    from vislearn.core import seed_all
    from vislearn.terrain.costmap import CostMapper
    from vislearn.terrain.nets import CostNet, EmbeddingNet, FullCostNet
    seed_all(0)
    bev = spot_bev(); model = FullCostNet(EmbeddingNet(8), CostNet(8))
    with torch.no_grad():
        for _ in range(20): model(torch.randint(0, 256, (32, 3, 64, 64), dtype=torch.uint8))
        model.cost.net[4].weight.mul_(8)
    model.eval(); img = np.random.default_rng(0).integers(1, 256, (94, 182, 3), np.uint8).repeat(8, 0).repeat(8, 1)[:bev.rows, :bev.cols]*bev.mask()[..., None]
    cores = os.cpu_count() or 1
    for threads in sorted({1, 2, cores} if not quick else {min(2, cores)}):
        if threads > cores: continue
        torch.set_num_threads(threads)
        tiles, dense = CostMapper(model, bev, stride=32, border='keep'), CostMapper(model, bev, mode='dense')
        fast, slow, once = [[1e3*t for t in ts] for ts in alternate(3 if quick else 9, lambda: tiles(img), lambda: slow_costs(img, model, 64, 32), lambda: dense(img))]
        gap = float(np.nanmax(np.abs(tiles(img).cost - slow_costs(img, model, 64, 32))))
        config = dict(threads=threads, image=[bev.rows, bev.cols], patch_px=64, stride=32, tiles=len(tiles.rows), grid=list(tiles.seen.shape), network='seed, D=8')
        yield entry(f'costmap_{threads}_threads', 'ms per image', fast, slow, dict(config, largest_difference=gap), limit=3., note='the same costs for the same tiles; slow: tile by tile, batches of 32')
        yield entry(f'costmap_dense_{threads}_threads', 'ms per image', once, None, dict(config, stride=8, tiles=len(dense.rows), grid=list(dense.seen.shape)), note='one pass over the whole image; approximate, 16 times the cells')


@group
def planning(quick):
    "Cheapest path over a fused map: edges by array slices and a compiled search against a plain priority queue in Python."
    import numpy as np
    from test_terrain_plan import slow_dijkstra
    from vislearn.terrain.costmap import CostMap
    from vislearn.terrain.plan import plan_grid
    n = 60 if quick else 150
    cost = np.random.default_rng(0).random((n, n)); cmap = CostMap(cost, .1, (0, 0))
    fast, slow = [[1e3*t for t in ts] for ts in alternate(3, lambda: plan_grid(cmap, (0, 0), (n-1, n-1)), lambda: slow_dijkstra(cost, (0, 0), (n-1, n-1), .25, 1., .1))]
    yield entry('plan_grid', 'ms per path', fast, slow, dict(cells=[n, n]))


@group
def extraction(quick):
    "Patches per second of the vectorised extraction against a loop over pairs with identical output; memory of a long recording."
    import terrain_bench as tb
    p = tb.bench_patches(40 if quick else 120); config = {k: p[k] for k in ('images', 'patches', 'image_px', 'identical')}
    yield entry('extraction_vs_pair_loop', 'patches per s', p['patches_per_s'], p['pair_loop_patches_per_s'], config, 'higher', 10., p['note'])
    yield entry('extraction_vs_viewpoint_loop', 'patches per s', p['patches_per_s'], p['viewpoint_loop_patches_per_s'], config, 'higher')
    m = tb.bench_memory(200 if quick else 2000)
    yield entry('extraction_memory', 'MB of growth', m['growth_mb'], config={k: m[k] for k in ('images', 'patches', 'seconds')}, limit=500.)


@group
def store(quick):
    "Opening a large store of patches, reading at random, private memory of four workers."
    import terrain_bench as tb
    s = tb.bench_store(100_000 if quick else 1_000_000, big=10_000 if quick else 40_000); config = {k: s[k] for k in ('patches', 'side_px')}
    yield entry('store_open', 's', s['open_s'], config=config, limit=1.)
    yield entry('store_read_10000', 's', s['read_10000_s'], config=config, limit=1.)
    yield entry('store_read_10000_of_64px', 's', s['read_10000_of_64px_s'], config=dict(patches=10_000 if quick else 40_000, side_px=64), limit=1.)
    yield entry('store_worker_memory', 'private MB per worker', s['private_mb_per_worker'], config=dict(store_mb=s['store_mb_for_workers'], workers=4))


@group
def triplets(quick):
    "Triplets per second of vectorised batches against drawing one item at a time."
    import terrain_bench as tb
    t = tb.bench_triplets(); config = {k: t[k] for k in ('batch', 'locations')}
    yield entry('triplets_vs_per_item', 'triplets per s', t['triplets_per_s'], t['per_item_per_s'], config, 'higher', 50., t['note'])
    yield entry('triplets_vs_tuned_per_item', 'triplets per s', t['triplets_per_s'], t['tuned_per_item_per_s'], config, 'higher')


if __name__ == '__main__': sys.exit(main(__file__, __doc__, lambda name: None if name in ('costmap', 'planning') else 1))
