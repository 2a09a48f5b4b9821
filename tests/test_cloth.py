"The simulated cloth and its films: acceptance fact V14 of the specification of SVG, slow references, determinism, exchange"
import hashlib, math, os, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from vislearn.core import DataError, UserError
from vislearn.synth import cloth
from vislearn.synth.cloth import ClothSim, draw_hidden, draw_looks, look_down, render_cloth
from vislearn.synth.fabric import (ClothEnv, cloth_films, draw_disc, episode_seeds, load_fabric, make_cloth, push_disc, pushed_disc, random_actions, save_fabric)

DATA = Path(__file__).resolve().parents[1]/'data'
digest = lambda films: hashlib.sha256(b''.join(a.tobytes() for f in films for a in (f.frames, f.actions, f.notes['coverage']))).hexdigest()
rngs = lambda n, seed=0: [np.random.default_rng([seed, i]) for i in range(n)]

@pytest.fixture(scope='module')
def films(): return cloth_films(episode_seeds(11, 64), 8, env=ClothEnv([0]))

# --- V14 ---

def test_V14_flat_cloth_covers_exactly_the_table():
    for n in (4, 17, 25):
        frame = render_cloth(ClothSim(n=n).positions)[0]; rows, columns = np.nonzero(frame[..., 3])
        assert len(rows)==1764 and (rows.min(), rows.max(), columns.min(), columns.max())==(7, 48, 7, 48)
        assert len(np.unique(frame[rows, columns], axis=0))==1 and ClothSim(n=n).coverage().tolist()==[1.]

def test_V14_cloth_hardly_stretches_and_stays_above_the_table():
    sim, rng = ClothSim().reset(range(48)), np.random.default_rng(0)
    for _ in range(5):
        sim.act(rng.uniform([-1, -1, -.4, -.4], [1, 1, .4, .4], (48, 4))); x = sim.positions
        assert x.isfinite().all() and x[..., 2].min()>=0 and x[..., 2].max()<.4
        for a, b in ((x[:, 1:], x[:, :-1]), (x[:, :, 1:], x[:, :, :-1])): assert .9<(a - b).norm(dim=-1).mean()*16<1.05
    assert (a - b).norm(dim=-1).max()*16<2.5

def test_V14_same_seed_same_bytes_in_any_company(films):
    seeds = episode_seeds(11, 64)
    alone = [cloth_films(seeds[i:i+1], 8, env=ClothEnv([0]))[0] for i in (0, 17)]
    assert digest(alone)==digest([films[0], films[17]])
    env = ClothEnv([0]); env.sim.chunk = 5; assert digest(cloth_films(seeds[7:20], 8, env=env))==digest(films[7:20])

def test_V14_same_bytes_with_tiers_and_looks_in_any_company():
    make = lambda part: cloth_films(part, 2, 'edge', env=ClothEnv(looks=True))
    seeds = episode_seeds(3, 12); whole = make(seeds)
    assert digest(whole)==digest(make(seeds[:5]) + make(seeds[5:])) and {int(f.notes['tier']) for f in whole}=={0, 1, 3}
    assert digest(whole)!=digest(make(episode_seeds(4, 12)))

def test_V14_same_bytes_in_another_process_with_more_threads():
    code = 'import torch; torch.set_num_threads(2); from vislearn.synth.fabric import *; import hashlib; print(hashlib.sha256(b"".join(f.frames.tobytes() for f in cloth_films(episode_seeds(5, 20), 1))).hexdigest())'
    there = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=dict(os.environ, OMP_NUM_THREADS='2')).stdout.strip()
    assert there==hashlib.sha256(b''.join(f.frames.tobytes() for f in cloth_films(episode_seeds(5, 20), 1))).hexdigest()

def test_V14_coverage_falls_under_random_actions(films):
    mean = np.mean([f.notes['coverage'] for f in films], 0)
    assert mean[0]==1 and (np.diff(mean)<0).all() and .55<mean[5]<.8

def test_V14_nothing_gripped_keeps_the_picture(films):
    for f in films:
        same = (f.frames[1:]==f.frames[:-1]).all((1, 2, 3)); assert same[~f.notes['grasped']].all()
    gripped = np.concatenate([f.notes['grasped'] for f in films]); changed = np.concatenate([(f.frames[1:]!=f.frames[:-1]).any((1, 2, 3)) for f in films])
    assert .02<1 - gripped.mean()<.4 and changed[gripped].mean()>.97

# --- slow references ---

def slow_repair(x, n, bend):
    "Links one after the other, group by group; x (n, n, 3) float64"
    groups = [[((i, j), (i+1, j)) for i in range(c, n-1, 2) for j in range(n)] if axis==0 else [((i, j), (i, j+1)) for i in range(n) for j in range(c, n-1, 2)] for c in (0, 1) for axis in (0, 1)]
    groups = [(g, 1, 1., False) for g in groups]
    groups += [([((i, j), (i+1, j+1)) for i in range(n-1) for j in range(n-1)], math.sqrt(2), .6, False), ([((i, j+1), (i+1, j)) for i in range(n-1) for j in range(n-1)], math.sqrt(2), .6, False)]
    groups += [([((i, j), (i+2, j)) for i in range(n-2) for j in range(n)], 2, bend, True), ([((i, j), (i, j+2)) for i in range(n) for j in range(n-2)], 2, bend, True)]
    for pairs, length, stiff, push in groups:
        rest2, before = (length/(n-1))**2, x.copy()
        for a, b in pairs:
            d = before[b] - before[a]; c = rest2/(d@d + rest2) - .5
            if push and c<0: continue
            x[a] -= stiff*c*d; x[b] += stiff*c*d
    return x

def test_repairing_distances_equals_a_loop_over_pairs():
    n, rng = 6, np.random.default_rng(0); start = ClothSim(n=n).positions[0].double().numpy() + rng.normal(0, .05, (n, n, 3))
    x = torch.tensor(start).permute(2, 0, 1)[..., None].contiguous(); groups = cloth._bind(x, [torch.empty_like(x) for _ in range(2)])
    want = start
    for _ in range(3): cloth._repair(groups, torch.tensor([.2], dtype=torch.float64)); want = slow_repair(want.copy(), n, .2)
    assert abs(x[..., 0].permute(1, 2, 0).numpy() - want).max()<1e-12

def test_repairing_brings_lengths_back():
    x = ClothSim(n=8).positions.permute(3, 1, 2, 0).double().contiguous() + torch.randn(3, 8, 8, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)*.02
    groups = cloth._bind(x, [torch.empty_like(x) for _ in range(2)]); off = lambda: ((x[:, 1:] - x[:, :-1]).norm(dim=0)*7 - 1).abs().mean().item(); first = off()
    for _ in range(60): cloth._repair(groups, torch.tensor(.1))
    assert off()<.1*first

def test_layers_equal_a_loop_over_points():
    rng, n = np.random.default_rng(1), 7
    start = torch.tensor(rng.uniform(-.1, 1.1, (3, n, n, 2)), dtype=torch.float32); start[2] *= .05
    x = start.clone(); x[:2] += torch.tensor(rng.choice([0, .02, .06, .2], (2, n, n, 2)), dtype=torch.float32); thick = torch.tensor([.015, .02]); resting = cloth._resting(start, thick)
    cell = lambda p: [int((float(v) + .25)*64/1.5) for v in p[:2]]
    near = lambda p, q: all(abs(a - b)<=2 for a, b in zip(cell(p), cell(q)))
    got = cloth._support(x, start, resting, thick); points = [(i, j) for i in range(n) for j in range(n)]
    for b in range(2):
        floor, height = {}, {}
        for p in points: floor[p] = sum(math.dist(x[:2, p[0], p[1], b].tolist(), start[:2, p[0], p[1], b].tolist())>=f for f in (.03, .12, .25))
        for p in points:
            lowest = min(float(start[2, q[0], q[1], b]) for q in points if near(start[:, p[0], p[1], b], start[:, q[0], q[1], b])); z = float(start[2, p[0], p[1], b])
            assert math.isclose(float(resting[p[0], p[1], b]), z if z - lowest>.6*float(thick[b]) else 0, abs_tol=1e-7)
        for k in range(4):
            for p in points:
                if floor[p]!=k: continue
                below = [height[q] + float(thick[b])*(1 - height[q]/.15) for q in points if floor[q]<k and near(x[:, p[0], p[1], b], x[:, q[0], q[1], b])]
                height[p] = float(resting[p[0], p[1], b]) if k==0 else max(below, default=0.)
        assert all(math.isclose(float(got[p[0], p[1], b]), height[p], abs_tol=1e-6) for p in points)

def test_gripper_holds_what_is_near_and_on_top():
    rng = np.random.default_rng(2); x = torch.tensor(rng.uniform(0, 1, (3, 9, 9, 4)), dtype=torch.float32); x[2] *= .1; pick = torch.tensor([[.5, .3, -.4, .9], [.5, .6, .2, .9]])
    got = cloth._grip(x, pick)
    for b in range(4):
        near = [(i, j) for i in range(9) for j in range(9) if (x[0, i, j, b] - pick[0, b])**2 + (x[1, i, j, b] - pick[1, b])**2<.003]
        top = max((float(x[2, i, j, b]) for i, j in near), default=0); assert {(int(i), int(j)) for i, j in got[..., b].nonzero()}=={p for p in near if x[2, p[0], p[1], b]>top - .04}
    assert got.any() and not got[..., 2].any()

# --- physics ---

def test_held_corner_goes_where_it_is_pulled_and_far_corner_stays():
    sim = ClothSim(jitter=0, slip=0, vary=False).reset([0]); sim.act([[-1, -1, .3, .2]]); x = sim.positions[0]
    assert (x[0, 0, :2] - torch.tensor([.3, .2])).norm()<.09 and (x[16, 16] - torch.tensor([1., 1, 0])).norm()<1e-4
    seen = look_down(sim.positions); assert (seen.cloth & ~seen.front).sum()>40, 'a folded corner shows the back'

def test_without_hidden_properties_and_noise_all_cloths_are_alike():
    a = [[.2, -1, .1, .35]]*3
    sim = ClothSim(jitter=0, slip=0, vary=False).reset([1, 2, 3]); sim.act(a); x = sim.positions; assert (x==x[:1]).all()
    sim = ClothSim(jitter=0, slip=0).reset([1, 2, 3]); sim.act(a); y = sim.positions; assert (y[0]-y[1]).abs().max()>.005 and (y[1]-y[2]).abs().max()>.005

def test_a_slipping_cloth_follows_part_of_the_way():
    far = []
    for slip in (0, 1): sim = ClothSim(jitter=0, slip=slip, vary=False).reset(range(16)); sim.act([[-1, -1, .4, .4]]*16); far.append(sim.positions[:, 0, 0, 0])
    assert (far[1]<far[0] - .02).all() and far[1].std()>.02

def test_a_branch_meets_the_future_of_its_origin():
    sim, a = ClothSim().reset([5, 6]), np.array([[0, 0, .3, .1], [.5, .5, -.2, -.3]]); sim.act(a); now = sim.state; sim.act(a); want = sim.positions
    other = ClothSim(); other.state = now.take([1, 0, 1]); other.act(a[[1, 0, 1]]); assert (other.positions==want[[1, 0, 1]]).all() and other.steps.tolist()==[2, 2, 2]
    now.positions.zero_(); assert other.positions.abs().sum()>0, 'states are copies'

def test_a_good_plan_smooths_the_cloth():
    "What planning needs: there are actions that raise coverage by much"
    env = ClothEnv([3]); env.reset(77, 6); first = env.coverage().mean()
    for k in range(3):
        now = env.state; env.state = now.take(np.repeat(np.arange(6), 24)); a = random_actions(env.positions, rngs(144, k), 'edge'); env.act(a)
        best = env.coverage().reshape(6, 24).argmax(1); env.state = now; env.act(a.reshape(6, 24, 4)[np.arange(6), best])
    assert env.coverage().mean() > first + .15

# --- pictures ---

def test_upper_layer_wins_and_shows_its_side():
    sim = ClothSim(); x = sim.positions; over = x[..., 0]>.5
    x[..., 2] = torch.where(over, .02, 0.); x[..., 0] = torch.where(over, 1 - x[..., 0], x[..., 0]); frame, seen = render_cloth(x)[0], look_down(x)
    assert (seen.cloth[0].sum(0)>0).nonzero().flatten().tolist()==list(range(7, 28)) and seen.coverage()[0]==.5
    middle = frame[10:46, 10:24].reshape(-1, 4); assert (abs(middle.astype(int) - np.round([.085*255, .2*255, .73*255, 40 + 800*.02]))<=4).all()

def test_looks_stay_in_their_ranges():
    looks = draw_looks(range(600)); inside = lambda v, a, b: (v>=a).all() and (v<=b).all() and v.min()<a + .1*(b-a) and v.max()>b - .1*(b-a)
    assert inside(looks.background, .4, .6) and inside(looks.tint, -.35, .35) and inside(looks.gamma, .7, 1.3) and inside(looks.depth, 40, 50) and inside(looks.noise, 0, 15)
    zoom, cos, sin, *shift = looks.camera.T; assert abs(np.std(1.45/zoom - 1.45) - .04)<.005 and abs(np.degrees(np.std(sin)) - .9)<.1 and abs(np.std(shift) - math.hypot(.04, 1.45*math.radians(.9)))<.005
    x = ClothSim().positions.expand(6, -1, -1, -1); a, b = render_cloth(x, draw_looks(range(6)), rngs(6)), render_cloth(x, draw_looks(range(6)), rngs(6, 1))
    assert (a!=b).any() and abs(a.astype(int) - b).max()<=31 and len({f[28, 28].tobytes() for f in a})==6

def test_hidden_properties_stay_in_their_ranges():
    h = draw_hidden(range(500)); low, high = np.float32(list(cloth.HIDDEN.values())).T
    assert (h>=low).all() and (h<=high).all() and (h.std(0)>.25*(high-low)).all() and (draw_hidden([3, 4])==h[3:5]).all()

# --- films ---

def test_random_actions_follow_the_rule():
    x = ClothSim().positions.expand(2000, -1, -1, -1)
    for policy in ('random', 'edge'):
        a = random_actions(x, rngs(2000), policy, .7).astype(float); pick, end = a[:, :2]/2 + .5, a[:, :2]/2 + .5 + a[:, 2:]
        assert abs(a[:, 2:]).max()<=.7 and end.min()>-.1251 and end.max()<1.1251
        border = (pick<1e-6) | (pick>1 - 1e-6); corner, edge = border.all(1).mean(), (border.any(1) & ~border.all(1)).mean()
        if policy=='edge': assert abs(corner - (.4 + .4*2/17))<.04 and abs(edge - .4*15/17)<.04
        else: assert corner==edge==0 and abs(pick.mean() - .5)<.02 and abs(pick.std() - 12**-.5)<.01
    small = ClothSim().positions*.2 + .3; a = random_actions(small.expand(200, -1, -1, -1), rngs(200)); assert a[:, :2].min()>=-.4001 and a[:, :2].max()<=.0001

def test_tiers_are_of_rising_difficulty_and_equally_frequent():
    mean = []
    for tier in (0, 1, 3): env = ClothEnv([tier]); env.reset(1, 24); mean.append(env.coverage().mean())
    assert mean[0]==1 and .8<mean[1]<.97 and .35<mean[2]<.75
    env = ClothEnv(); env.reset(8, 120); counts = np.bincount(env.tier, minlength=4); assert counts[2]==0 and counts[[0, 1, 3]].min()>25

def test_store_does_not_depend_on_workers(tmp_path):
    a, b = make_cloth(70, 1, seed=6, root=tmp_path/'a'), make_cloth(70, 1, seed=6, workers=2, root=tmp_path/'b')
    assert a.path.name==b.path.name and (np.asarray(a.frames[:])==np.asarray(b.frames[:])).all() and (a.notes['coverage']==b.notes['coverage']).all()
    assert a.act_dim==4 and a.channels==4 and a.size==(56, 56) and a.lengths.tolist()==[2]*70 and a.notes['seed'][3]==6000003 and a.info['params']['limit']==.4
    assert make_cloth(70, 1, seed=6, limit=.3, root=tmp_path/'a').path!=a.path

def test_committed_films_are_the_first_of_set_0():
    clips = load_fabric(DATA/'cloth'/'cloth_32.npz'); film = cloth_films(episode_seeds(0, 1, 4))[0]
    assert len(clips)==32 and clips.lengths.tolist()==[11]*32 and clips.act_dim==4 and clips.notes['hidden'].shape==(32, 4)
    assert abs(clips[4].frames[0].astype(int) - film.frames[0]).mean()<1 and np.allclose(clips[4].actions[0], film.actions[0], atol=.05)

def test_fork_layout_goes_both_ways(tmp_path):
    clips = pushed_disc(3, 4, seed=2, size=20); save_fabric(clips, tmp_path/'x.npz')
    with np.load(tmp_path/'x.npz') as z: assert z['images'].shape==(3, 5, 20, 20, 4) and z['images'].dtype==np.uint8 and z['actions'].shape==(3, 4, 4) and z['actions'].dtype==np.float32
    back = load_fabric(tmp_path/'x.npz'); assert all((a.frames==b.frames).all() and (a.actions==b.actions).all() for a, b in zip(clips, back)) and (back.notes['centre']==clips.notes['centre']).all()
    first = (tmp_path/'x.npz').read_bytes(); save_fabric(clips, tmp_path/'x.npz'); assert (tmp_path/'x.npz').read_bytes()==first

def test_pushed_disc_obeys_its_formula():
    clips = pushed_disc(40, 5, seed=1, size=28); centre = clips.notes['centre']; pushed = np.concatenate([np.abs(np.diff(c, axis=0)).sum(1)>0 for c in centre])
    assert .6<pushed.mean()<.95 and (centre>=0).all() and (centre<=1).all()
    for clip, c in zip(clips, centre):
        for t in range(5): assert np.allclose(push_disc(c[t:t+1], clip.actions[t:t+1]), c[t+1:t+2]) and (draw_disc(c[t+1:t+2], size=28)[0]==clip.frames[t+1]).all()

# --- bad input ---

@pytest.mark.parametrize('call, message', [
    (lambda: ClothSim(n=2), 'n must be at least 4'), (lambda: ClothSim().reset([]), 'one per cloth'), (lambda: ClothSim().act(np.zeros((2, 4))), 'actions must be'),
    (lambda: ClothSim().act([[0, np.inf, 0, 0]]), '1 values are not finite'), (lambda: ClothEnv([]), 'tiers must be some of'), (lambda: ClothEnv([0, 2]), 'tiers must be some of'),
    (lambda: episode_seeds(1, 10**6 + 1), 'at most 1000000 films'), (lambda: make_cloth(3, 0), 'at least 1'), (lambda: cloth_films([1], 1, 'border'), "policy must be one of"),
    (lambda: cloth_films([1], 1, limit=0), 'limit must lie in')])
def test_bad_input_gives_one_clear_line(call, message):
    with pytest.raises(DataError, match=message) as e: call()
    assert '\n' not in str(e.value) and issubclass(DataError, UserError)

def test_state_of_another_size_is_refused():
    with pytest.raises(DataError, match='positions must be'): ClothSim(n=9).state = ClothSim().state
