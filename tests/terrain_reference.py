"Slow, plain versions of what vislearn.terrain does fast; tests compare them, benchmarks time them"
import random
import numpy as np
from scipy.spatial.transform import Rotation


def slow_patches(images, T, bev, params, decode_each_pair=True, window=None, below=None):
    """The forward scanning of the original, pair by pair: yields (i, j), patch, share of unseen pixels.

    Every pair multiplies its own matrices, decodes its own image and tests its own pixels. With `decode_each_pair=False`
    the image is decoded once per viewpoint, which is as good as a loop over pairs gets without changing its form.
    """
    n, S = len(T), params.patch_px
    mask = bev.mask()
    known, below = below is not None, np.zeros((bev.rows, bev.cols), int) if below is None else below
    if params.black_rule == 'band' and not known:
        near = np.pad(mask, 16, mode='edge')
        for r in range(bev.rows):
            for c in range(bev.cols):
                part = near[r:r+33, c:c+33]
                if part.any() and not part.all(): below[r, c] = 8
    u0, v0 = (bev.u0, bev.v0) if params.exact_origin else (bev.cols//2, bev.rows)
    inside = np.ones(n, bool) if window is None else window
    for i in range(n):
        if not inside[i]: continue
        total, last, image = 0., T[i], None if decode_each_pair else images[i]
        for j in range(i, n):
            if params.clip_future and not inside[j]: continue
            x, y = (np.linalg.inv(last) @ T[j])[:2, 3]
            step = (x*x + y*y)**.5
            if step < params.min_spacing_m: continue
            total += step
            last = T[j]
            if total > params.max_range_m: break
            D = np.linalg.inv(T[i]) @ T[j]
            if abs(Rotation.from_matrix(D[:3, :3]).as_euler('ZXY')[0]) > np.deg2rad(params.max_yaw_deg): break
            x, y = D[0, 3], D[1, 3]
            if params.rounding == 'nearest': top, left = int(np.floor(v0 - x*bev.ppm - S/2 + .5)), int(np.floor(u0 - y*bev.ppm - S/2 + .5))
            else: top, left = int(v0) - S//2 - int(bev.ppm*x), int(u0) - S//2 - int(bev.ppm*y)
            if params.bounds_check and (top < 0 or left < 0): continue
            if decode_each_pair: image = images[i]
            crop = image[top:top+S, left:left+S]
            if crop.shape != (S, S, 3): continue
            if params.black_rule == 'band' and (~mask[top:top+S, left:left+S]).mean() >= params.max_black: continue
            top, left = top % bev.rows, left % bev.cols
            black = (crop.max(2) <= below[top:top+S, left:left+S]).mean()
            if black < params.max_black: yield (i, j), crop.copy(), black


def views_of(pset):
    "Category -> location -> list of rows, as Python objects."
    out = {c: {} for c in pset.categories}
    for row, (c, m) in enumerate(zip(pset.category.tolist(), pset.location.tolist())): out[pset.categories[c]].setdefault(m, []).append(row)
    return out


def slow_triplet(views, rng: random.Random):
    "The seed's rule, one triplet at a time: clearest view of a location, any view of another one, any view in another category."
    t1, t2 = rng.sample(list(views), 2)
    anchor, positive = (views[t1][rng.choice(list(views[t1]))] for _ in range(2))
    negative = views[t2][rng.choice(list(views[t2]))]
    return anchor[-1], rng.choice(positive), rng.choice(negative)


class SlowTriplets:
    "A data set with the seed's rule: every item draws one triplet from dictionaries of locations."
    def __init__(self, pset, seed=0): self.rng, self.views = random.Random(seed), views_of(pset)
    def __getitem__(self, index): return slow_triplet(self.views, self.rng)


class TunedTriplets:
    "The fastest form found of a sampler in plain Python: lists prepared once, nothing but draws per item."
    def __init__(self, pset, seed=0): self.rng, self.cats = random.Random(seed), [list(locs.values()) for locs in views_of(pset).values()]
    def __getitem__(self, index):
        rng = self.rng
        t1, t2 = rng.sample(self.cats, 2)
        anchor, positive, negative = rng.choice(t1), rng.choice(t1), rng.choice(t2)
        return anchor[-1], rng.choice(positive), rng.choice(negative)


def slow_costs(img, model, size, stride, min_visible=.5, batch=32):
    """The originals' costmap: tiles cut one by one from the upper left corner, row by row, priced in batches of 32.

    Incomplete tiles are left out, tiles of which less than `min_visible` is not black are skipped. The model runs as it was trained, in eval mode.
    """
    import torch
    out = np.full(((img.shape[0]-size)//stride + 1, (img.shape[1]-size)//stride + 1), np.nan, np.float32)
    tiles, places = [], []
    def price():
        if tiles:
            with torch.no_grad(): costs = model(torch.stack(tiles)).reshape(-1)
            for place, cost in zip(places, costs.tolist()): out[place] = cost
        tiles.clear(); places.clear()
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            tile = img[r*stride:r*stride+size, c*stride:c*stride+size]
            if 1 - (tile == 0).all(2).mean() < min_visible: continue
            tiles.append(torch.from_numpy(tile).permute(2, 0, 1)); places.append((r, c))
            if len(tiles) == batch: price()
    price()
    return out
