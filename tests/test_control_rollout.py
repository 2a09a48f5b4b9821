"Playing many environments at once: same table for any number of them, and nothing is left when somebody dies."
import os, signal, subprocess, sys, threading, time
import gymnasium as gym, numpy as np, pytest, torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from vislearn.control.encoders import make_encoder
from vislearn.control.envs import make_env
from vislearn.control.policies import Policy, PolicySpec, QuickELU, quick_copy
from vislearn.control.rollout import EnvPool, PolicyActor, RandomActor, Rollouts, Stopped, evaluate, mean_interval
from vislearn.control.wrappers import Stacker
from vislearn.core import ConfigError, DataError, seed_all
from test_procs import gone, heed_ctrl_c


def lstm(dim=4, n=4): seed_all(3); return Policy(PolicySpec(dim=dim, n=n, core='lstm', widths=[16], layers=1))
class Mean(torch.nn.Module):
    "A stand-in for an encoder that counts the pictures it sees."
    dim, card, seen = 3, {}, 0
    def forward(self, x): self.seen += len(x); return x.float().mean((2, 3)) / 255


def test_P09_table_does_not_depend_on_number_of_environments():
    tables = [evaluate(PolicyActor(lstm(), obs='state'), 'Reach-discrete', n=11, envs=k, workers=w, options=dict(pixels=False)).episodes for k, w in ((1, False), (4, False), (5, False), (3, True))]
    assert tables[0]==tables[1]==tables[2]==tables[3] and len(tables[0])==11 and len({e.length for e in tables[0]})>1


def test_P09_halves_of_a_pool_change_nothing():
    "Several copies per worker: while one half moves the policy thinks about the other; memory, goals and frame history stay with their rows."
    make = lambda: PolicyActor(lstm(12 + 2, n=4), Mean(), stack=2, proprio=True); twins = []
    class Counted(PolicyActor):
        def twin(self): twins.append(1); return super().twin()
    alone = evaluate(make(), 'Reach-goal', n=13, envs=1, workers=False); policy = make()
    halves = evaluate(Counted(policy.policy, Mean(), stack=2, proprio=True), 'Reach-goal', n=13, envs=7, workers=2, film=3)
    assert alone.episodes==halves.episodes and len(twins)==1 and len({e.length for e in alone.episodes})>1
    assert all(len(halves.films[s])==halves.episodes[s].length + 1 for s in range(3)) and np.array_equal(halves.films[2][0], make_env('Reach-goal').reset(seed=2)[0]['pixels'])


@pytest.mark.parametrize('name, options, workers', [('Reach-goal', {}, 0), ('Reach-continuous', dict(pixels=False), 2), ('CartPole-v1', dict(pixels=False, skip=2), 0)])
def test_pool_steps_as_gymnasium_does(name, options, workers):
    "The reference is gymnasium's vector environment with the same seeds and actions; rows that end begin again, the others stay."
    slow = SyncVectorEnv([lambda: make_env(name, **options)]*5, autoreset_mode=AutoresetMode.DISABLED); rng = np.random.default_rng(0); ends = 0
    with EnvPool(name, 5, workers, options) as pool:
        want, got, seeds = slow.reset(seed=list(range(5)))[0], pool.reset(range(5)), np.arange(5)
        for t in range(60):
            assert set(want)==set(got) and all(np.array_equal(want[k], got[k]) and want[k].dtype==got[k].dtype for k in want)
            space = pool.action_space; actions = rng.integers(space.n, size=5) if isinstance(space, gym.spaces.Discrete) else rng.uniform(space.low, space.high, (5, *space.shape)).astype(np.float32)
            want, r, done, late, info = slow.step(actions); got, reward, ended, infos = pool.step(actions); over = done | late
            assert np.array_equal(r, reward) and np.array_equal(over, ended) and all(('success' in i)==('success' in info) and (not i or bool(i['success'])==bool(info['success'][k])) for k, i in enumerate(infos))
            if over.any(): seeds = seeds + 5*over; ends += over.sum(); want, got = slow.reset(seed=seeds.tolist(), options=dict(reset_mask=over))[0], pool.reset(seeds, over)
    assert ends>3; slow.close()


def test_mistakes_in_a_worker_are_raised_here():
    with EnvPool('Reach-continuous', 3, 2, dict(pixels=False)) as pool:
        pool.reset([0, 1, 2])
        with pytest.raises(DataError, match='action must be 2 finite numbers from -1 to 1, got'): pool.step(np.full((3, 2), 9., np.float32))
        with pytest.raises(DataError, match=r'actions must be float32 \(3, 2\), got int64 \(3,\)'): pool.step(np.zeros(3, int))
    assert not pool.pids


def test_quick_network_sees_what_the_encoder_sees():
    encoder = make_encoder('random4', (32, 32)); quick = PolicyActor(lstm(encoder.dim), encoder).eye; x = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode(): slow, fast = encoder(x.permute(0, 3, 1, 2).contiguous()), quick(x.permute(0, 3, 1, 2))
    assert (slow - fast).abs().max()<1e-5*slow.abs().max() and any(isinstance(m, QuickELU) for m in quick.modules()) and not any(isinstance(m, QuickELU) for m in encoder.modules())
    assert {p.data_ptr() for p in quick.parameters()}=={p.data_ptr() for p in encoder.parameters()}
    for x in (torch.linspace(-90, 90, 200_001), torch.randn(3, 5, 64, 80), torch.randn(9, 4, 70, 50).to(memory_format=torch.channels_last), torch.randn(6, 8, 9)[:, ::2]):
        y = QuickELU()(x.clone(memory_format=torch.preserve_format)); assert (y - torch.nn.functional.elu(x)).abs().max()<2e-7 and y.stride()==torch.nn.functional.elu(x).stride()
    assert QuickELU()(torch.tensor([-np.inf, np.inf])).tolist()==[-1, np.inf] and QuickELU()(torch.tensor([np.nan])).isnan()
    w = torch.tensor([-1., 2.], requires_grad=True); QuickELU()(w).sum().backward(); assert torch.allclose(w.grad, torch.tensor([np.exp(-1.), 1.], dtype=torch.float32))
    half = torch.linspace(-3, 3, 50).bfloat16(); assert torch.equal(QuickELU()(half), torch.nn.functional.elu(half))
    traced = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)); assert quick_copy(torch.nn.Sequential(traced))[0] is traced
    net = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ELU()); assert not any(isinstance(m, QuickELU) for m in quick_copy(net).modules()) # it would write over what others gave


def test_P08_batched_rollout_is_the_single_rollout():
    "Play by hand, one episode after another, with a fresh memory each."
    policy = lstm(); table = evaluate(PolicyActor(policy, obs='state'), 'Reach-discrete', n=6, envs=4, workers=False, options=dict(pixels=False))
    env = make_env('Reach-discrete', pixels=False)
    for e in table.episodes:
        obs, _ = env.reset(seed=e.seed); state, total, over, n = policy.initial(1), 0., False, 0
        while not over:
            action, state = policy.act(torch.from_numpy(obs['state'])[None], state)
            obs, r, done, late, info = env.step(int(action[0])); total += r; n += 1; over = done or late
        assert (n, info['success'])==(e.length, e.success) and total==pytest.approx(e.total)


def test_goal_is_embedded_once_per_episode():
    encoder = Mean(); table = evaluate(PolicyActor(lstm(6), encoder), 'Reach-goal', n=4, envs=2, workers=False)
    steps = sum(e.length for e in table.episodes)
    assert encoder.seen<steps + 2*max(e.length for e in table.episodes) + 2*6 # not twice per step


def test_P06_acting_stacks_as_data_does():
    from vislearn.control.wrappers import stack_frames
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32); fresh = np.array([1, 0, 0, 0, 1, 0, 0, 0, 0], bool)
    for mode in ('cat', 'diff'):
        s = Stacker(3, mode); acting = np.concatenate([s.push(x[t:t + 1], fresh[t:t + 1]) for t in range(9)])
        assert np.array_equal(acting, stack_frames(x, fresh, 3, mode))


def test_films_begin_with_the_reset_and_end_with_the_end():
    table = evaluate(RandomActor(gym.spaces.Discrete(4)), 'Reach-discrete', n=5, envs=2, workers=False, film=2)
    assert sorted(table.films)==[0, 1] and all(len(table.films[s])==table.episodes[s].length + 1 for s in (0, 1))
    env = make_env('Reach-discrete'); assert np.array_equal(table.films[1][0], env.reset(seed=1)[0]['pixels'])


def test_undefined_success_is_none():
    table = evaluate(RandomActor(gym.spaces.Discrete(2)), 'CartPole-v1', n=3, options=dict(pixels=False))
    assert table.success is None and table.successes is None and 'success' not in repr(table) and (table.returns>0).all()


class Killer(RandomActor):
    "Kills a worker after some steps, as often as told."
    def __init__(self, space, pool, times): super().__init__(space); self.pool, self.times, self.calls = pool, times, 0
    def act(self, obs):
        self.calls += 1
        if self.times and self.calls % 9==0: self.times -= 1; os.kill(self.pool.pids[0], signal.SIGKILL); time.sleep(.2)
        return super().act(obs)


def test_killed_worker_is_started_again():
    plain = evaluate(RandomActor(gym.spaces.Discrete(4)), 'Reach-discrete', n=6, workers=False)
    with EnvPool('Reach-discrete', 2, workers=True) as pool: table = evaluate(Killer(pool.action_space, pool, 1), pool, n=6)
    assert table.restarts==1 and table.episodes==plain.episodes and not pool.pids


def test_workers_that_keep_dying_are_reported():
    with EnvPool('Reach-discrete', 2, workers=True) as pool:
        with pytest.raises(DataError, match='its processes died 2 times.*use fewer at once'): evaluate(Killer(pool.action_space, pool, 9), pool, n=6, restarts=1)


def test_stopping_a_pool_ends_who_plays_in_it():
    class Slow(RandomActor):
        def act(self, obs): time.sleep(.05); return super().act(obs)
    pool, said = EnvPool('Reach-discrete', 2, workers=True), []
    def play():
        try: evaluate(Slow(pool.action_space), pool, n=500)
        except Stopped as e: said.append(str(e))
    thread = threading.Thread(target=play); thread.start()
    while not pool.pids: time.sleep(.05)
    time.sleep(.5); pids = pool.pids; pool.stop(); thread.join(10)
    assert said and not thread.is_alive() and gone(pids, 5)


SCRIPT = '''
from vislearn.control.rollout import EnvPool, RandomActor, evaluate
with EnvPool('Reach-discrete', 3, workers=True) as pool:
    class Act(RandomActor):
        def act(self, obs):
            if not hasattr(self, 'told'): self.told = True; print(*pool.pids, flush=True)
            return super().act(obs)
    evaluate(Act(pool.action_space), pool, n=100000)
'''


@pytest.mark.parametrize('kill', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_P10_no_worker_outlives_its_parent(tmp_path, kill, request):
    (tmp_path/'play.py').write_text(SCRIPT) # no guard around the main part
    parent = subprocess.Popen([sys.executable, tmp_path/'play.py'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=heed_ctrl_c)
    request.addfinalizer(parent.kill); pids = [int(p) for p in parent.stdout.readline().split()]; assert len(pids)==3
    time.sleep(.3); os.kill(parent.pid, kill); parent.wait(20)
    assert gone(pids, 5)


def test_intervals():
    "The bootstrap interval of a proportion agrees with the binomial one, and gets wider with luck between seeds."
    values = [1]*40 + [0]*10; mean, low, high = mean_interval(values); se = np.sqrt(.8*.2/50)
    assert mean==.8 and abs(low - (.8 - 1.96*se))<.03 and abs(high - (.8 + 1.96*se))<.03
    same, apart = mean_interval([[1, 0]*10]*3), mean_interval([[1]*20, [0]*20, [1, 0]*10])
    assert same[0]==apart[0]==.5 and apart[2] - apart[1]>same[2] - same[1]


def test_mistakes():
    with pytest.raises(ConfigError, match="obs must be 'pixels' or 'state'"): PolicyActor(lstm(), obs='picture')
    with pytest.raises(ConfigError, match='was trained on pixels, the environment shows proprio, state'): evaluate(PolicyActor(lstm()), 'Reach-discrete', n=1, options=dict(pixels=False))
    with pytest.raises(DataError, match='knows observations of 5 numbers, got 4'): evaluate(PolicyActor(lstm(5), obs='state'), 'Reach-discrete', n=1, options=dict(pixels=False))
    with pytest.raises(DataError, match='expected a table'): Rollouts.load(__file__)
    with pytest.raises(ConfigError, match='n must be at least 1'): EnvPool('Reach-discrete', -1)
