"Policies from names and places: the catching game against a loop, features and drives against formulas, learners against known answers, perceivers, intervals"
import json, math
from pathlib import Path
import numpy as np, pytest
from vislearn.core import ConfigError, DataError, UserError
from vislearn.objects import play as op
from vislearn.objects.atari import OcAtariSource
from vislearn.objects.clips import record_clips
from vislearn.objects.describe import Seen
from vislearn.objects.frames import FrameSource, play, things_table
from vislearn.synth.catch import CatchGame, CatchWorld

TOP = Path(__file__).parents[1]
seen = lambda label, x, y: Seen(label, x, y, 4., 4., 1., -1)
truth_of = lambda game: op.TruthScene(game)


def slow_game(seed, moves):
    "One catching game, one step after the other, in plain numbers."
    from vislearn.core import sample_rng
    drops = iter(sample_rng(seed, 0, 0).random((256, 2)).tolist()); own, rewards, places = 13., [], []
    def drop(): a, b = next(drops); return a*27, 0., (2*b - 1)*2.5
    x, y, v = drop()
    for move in moves:
        own = min(max(own + (0, 1, -1)[move], 0), 26); x += v; y += 1.5
        if x<0: x, v = -x, -v
        if x>27: x, v = 54 - x, -v
        r = 0.
        if y + 5>28: r = 1. if x + 5>own and x<own + 6 else -1.; x, y, v = drop()
        rewards.append(r); places.append((own, x, y))
    return rewards, places


@pytest.mark.parametrize('seed', range(4))
def test_world_equals_a_loop(seed):
    moves = np.random.default_rng(seed).integers(0, 3, 400); want, places = slow_game(seed, moves); world = CatchWorld([9, seed])
    got, at = [], []
    for m in moves: got.append(world.step(np.array([0, m]))[1]); at.append((world.own[1], *world.xy[1]))
    assert got==want and np.allclose(at, places, atol=1e-9) and {-1., 1.}<=set(want)


def test_frames_show_the_boxes():
    game = CatchGame(40); played = play(game, 100, 3); table = things_table(played.things, game.classes, (32, 32))
    assert played.begins.nonzero()[0].tolist()==[0, 41, 82] and table.n==200 and played.frames.dtype==np.uint8
    for frame, things in zip(played.frames, played.things):
        differs = (frame!=game.background).any(-1); inside = np.zeros((32, 32), bool)
        for t in things: inside[int(t.y):int(t.y + t.h), int(t.x):int(t.x + t.w)] = True; assert differs[int(t.y):int(t.y + t.h), int(t.x):int(t.x + t.w)].mean()>.8
        assert not (differs & ~inside).any()


def test_game_is_a_source_that_clips_are_recorded_from(tmp_path):
    assert isinstance(CatchGame(), FrameSource)
    clips = record_clips(CatchGame(), 8, trail=2, size=32, motion='root', root=tmp_path)
    assert clips.frames.shape==(8, 4, 32, 32, 3) and clips.classes==['no_label', 'ball', 'paddle'] and clips.marks.n>=40


def test_skill_helps():
    caught = {}
    for skill in (0., 1.):
        game = CatchGame(1000, skill=skill); game.reset(0); caught[skill] = 0
        for _ in range(1000): game.step(); caught[skill] += game.reward
    assert caught[1.]>caught[0.] + 20


def test_features_along_both_axes():
    own, own0, ball, ball0 = (np.array(v) for v in ([.5, .8], [.48, .8], [.2, .3], [.22, .27]))
    assert np.allclose(op.features(own, own0, ball, ball0, 'x'), [-.3, -.2, -.5, .3, .2]) and np.allclose(op.features(own, own0, ball, ball0, 'y'), [-.5, .3, -.3, -.2, 0])
    many = op.features(np.stack([own]*3), own0, ball, np.stack([ball0]*3)); assert many.shape==(3, 5) and np.allclose(many[1], op.features(own, own0, ball, ball0))
    assert op.features(own, own, np.array([1., 0.]), np.array([0., 0.]))[1]==1


def test_watch_remembers_and_looks_elsewhere():
    watch = op.Watch(op.PONG._replace(instead=('Enemy', 'Score')), (200, 100))                     # y counts in Pong: H=200
    first = watch([seen('Player', 90, 100), seen('Ball', 50, 60)]); assert np.allclose(first, [-.2, 0, -.4, 0, 0])
    assert np.allclose(watch([seen('Ball', 55, 70), seen('Ball', 0, 0), seen('Player', 90, 98)]), [-.14, .5, -.35, .5, -.1])    # the surest of two, that is the first
    assert np.allclose(watch([seen('Player', 90, 98)]), [-.14, 0, -.35, 0, 0]) and watch.missed==dict(Player=0, Ball=1)
    assert np.allclose(watch([seen('Score', 0, 0), seen('Enemy', 10, 130)]), [.16, 0, -.35, 0, 0])                              # only the height of a stand-in counts, and it has not moved yet
    assert np.allclose(watch([seen('Enemy', 10, 140)]), [.21, .5, -.35, 0, 0]) and watch.missed['Player']==2
    assert np.allclose(watch([seen('Ball', 60, 80), seen('Player', 90, 98)]), [-.09, 0, -.3, 0, 0])                             # back: no jump
    assert watch.reset().own is None and watch.missed=={'Player': 0, 'Ball': 0}


def test_swapped_names_do_not_move_me():
    "Two paddles look alike: mine cannot jump, unless it stays away."
    watch = op.Watch(op.PONG, (200, 100)); watch([seen('Player', 90, 100)]); at = lambda *things: (watch(list(things)), tuple(watch.own*[100, 200]))[1]
    assert at(seen('Player', 10, 40))==(90, 100) and watch.missed['Player']==1                                                   # the enemy, under my name
    assert at(seen('Player', 10, 40), seen('Player', 90, 104))==(90, 104)                                                        # the nearer of two, though the other is surer
    assert [at(seen('Player', 10, 40)) for _ in range(6)]==[(90, 104)]*5 + [(10, 40)]


def test_drive_of_a_population_equals_each_alone():
    rng = np.random.default_rng(1); f = rng.normal(size=(7, 5))
    for hidden in (0, 3):
        W = rng.normal(size=(7, op.n_weights(hidden))); alone = [op.drive(w, x, hidden) for w, x in zip(W, f)]
        assert np.allclose(op.drive(W, f, hidden), alone) and [op.DrivePolicy(tuple(w), hidden)(x) for w, x in zip(W, f)]==op.moves_of(np.array(alone)).tolist()
    assert op.moves_of(np.array([1.01, 1, 0, -1, -1.01])).tolist()==[1, 0, 0, 0, 2]
    with pytest.raises(DataError, match='6 numbers for 0 hidden'): op.drive(np.zeros(5), np.zeros(5))


def test_batch_of_games_equals_games_through_the_truth():
    rng = np.random.default_rng(2); game = CatchGame(300)
    for hidden in (0, 4):
        W = rng.normal(0, 8, (3, op.n_weights(hidden))); want = [[op.play_game(game, truth_of(game), op.DrivePolicy(tuple(w), hidden), op.CATCH, s, 300).reward for s in (5, 6)] for w in W]
        assert np.allclose(op.catch_scores(W, [5, 6], 300, hidden), np.mean(want, 1))


def test_cross_entropy_finds_the_top_of_a_hill():
    goal = np.array([4., -2., 7.]); got = op.cross_entropy(lambda w, g: -((w - goal)**2 @ [1, 3, .5]), 3, generations=40)
    assert np.abs(got.weights - goal).max()<.05 and got.mean[-1]>got.mean[0] and (got.best>=got.mean).all() and len(got.best)==40
    again = op.cross_entropy(lambda w, g: -((w - goal)**2 @ [1, 3, .5]), 3, generations=40); assert (again.weights==got.weights).all()
    assert (op.cross_entropy(lambda w, g: -((w - goal)**2).sum(1), 3, generations=2, seed=1).weights!=op.cross_entropy(lambda w, g: -((w - goal)**2).sum(1), 3, generations=2).weights).all()


def test_table_solves_a_corridor():
    "Three cells in a row, moves stay, right, left; the right end pays 1 and ends the round: values are powers of the discount."
    table, rng = op.QTable(dict(offset=(0., 1.))), np.random.default_rng(0)
    state, move = rng.integers(0, 3, (2, 40000)); after = np.clip(state + np.array([0, 1, -1])[move], 0, 2); pays = (state==2) & (move==1)
    for part in np.split(np.arange(40000), 4000): table.update(state[part], move[part], pays[part]*1., after[part], .2, .9, pays[part])
    best = np.array([.81, .9, 1.]); want = np.stack([.9*best, [.9*best[1], .9*best[2], 1], .9*best[[0, 0, 1]]], 1)
    assert np.allclose(table.q, want, atol=.02) and [table(np.array([x, 0, 0, 0, 0])) for x in (-1, .5, 2)]==[1, 1, 1]


def test_learned_policies_beat_random_and_following():
    game = CatchGame(); eyes, seeds = truth_of(game), range(100, 115)
    linear = op.cross_entropy(lambda w, g: op.catch_scores(w, range(1000 + 4*g, 1004 + 4*g)), op.n_weights())
    games = {k: op.evaluate_policy(game, eyes, p, op.CATCH, seeds, 256) for k, p in dict(random=op.RandomPolicy(), follow=op.FollowPolicy(), linear=op.DrivePolicy(tuple(linear.weights)), table=op.catch_table()).items()}
    assert op.margin(games['linear'], games['random']).low>9 and op.margin(games['table'], games['random']).low>5 and op.margin(games['linear'], games['follow']).low>0
    assert all(s.won - s.lost==s.reward and s.steps==256 and s.won + s.lost==16 for g in games.values() for s in g)


def test_blobs_see_what_is_there():
    game = CatchGame(); eyes, want = op.BlobScene(game.background, lambda x, y, w, h: 'paddle' if y>28 else 'ball'), truth_of(game)
    frame = game.reset(3)
    for _ in range(200): assert sorted(eyes(frame))==sorted(want(frame)); frame = game.step()[0]
    assert eyes(game.background)==[] and op.BlobScene(game.background, lambda *box: None)(frame)==[]
    with pytest.raises(DataError, match=r'frame must be \(32, 32, 3\)'): eyes(frame[:16])


def test_truth_leaves_the_display_out():
    class Board:
        name, classes = 'board', ['no_label', 'thing']
        def things(self): from vislearn.objects.frames import Thing; return [Thing('thing', 2, 4, 6, 8), Thing('thing', 0, 0, 5, 5, True)]
    assert op.TruthScene(Board())(None)==[Seen('thing', 5, 8, 6, 8, 1., -1)]
    Board.classes = []
    with pytest.raises(UserError, match='board has no labels'): op.TruthScene(Board())


def test_lossy_eyes():
    game = CatchGame(); game.reset(0); count = lambda recall: sum(len(eyes(game.frame)) for eyes in [op.LossyScene(truth_of(game), recall)] for _ in range(500))
    assert count(0)==0 and count(1)==1000 and abs(count(.3) - 300)<60
    shaky = op.LossyScene(truth_of(game), 1, jitter=2.); off = np.array([[a.x - b.x, a.y - b.y] for _ in range(500) for a, b in zip(shaky(game.frame), truth_of(game)(game.frame))])
    assert off.shape==(1000, 2) and np.allclose(off.std(0), 2, atol=.2) and np.abs(off.mean(0)).max()<.3
    score = op.play_game(game, op.LossyScene(truth_of(game), .25), op.FollowPolicy(), op.CATCH, 0, 256); assert abs(score.unseen - .75)<.1


def test_policies_and_eyes_begin_anew_with_every_game():
    class Eyes:
        resets = 0
        def reset(self): self.resets += 1
        def __call__(self, frame): return []
    game, eyes = CatchGame(), Eyes(); first, second = (op.evaluate_policy(game, eyes, op.RandomPolicy(), op.CATCH, (1, 2), 100) for _ in range(2))
    assert first==second and eyes.resets==4 and first[0]!=first[1]


def test_intervals_cover():
    "Of 400 intervals of 80 %, about 320 cover the truth; scipy's Welch test agrees with the margin."
    from scipy import stats
    rng = np.random.default_rng(0); hit = sum(i.low<2<i.high for i in (op.interval(rng.normal(2, 3, 6), .8) for _ in range(400)))
    assert 290<hit<350
    a, b = rng.normal(3, 1, 8), rng.normal(1, 4, 5); want = stats.ttest_ind(a, b, equal_var=False).confidence_interval(.9); got = op.margin(a, b, .9)
    assert np.allclose(got[1:], want) and math.isclose(got.mean, a.mean() - b.mean()) and str(op.Interval(1.23, -1, 3))=='+1.2 (-1.0 to +3.0)'


@pytest.mark.parametrize('call, says', [
    (lambda: op.play_game(CatchGame(), None, None, op.PONG._replace(moves=('NOOP', 'UP', 'DOWN'))), 'catch has no action UP: it has NOOP, RIGHT, LEFT'),
    (lambda: op.QTable(dict(drft=(0,))), "did you mean 'drift'"), (lambda: op.Watch(op.CATCH._replace(axis='z'), (32, 32)), "axis must be 'x' or 'y'"),
    (lambda: op.interval([3.]), 'at least 2 games, got 1'), (lambda: CatchWorld([1, 2]).step(np.zeros(3, int)), 'one move for each of 2 games'), (lambda: CatchGame().step(7), 'action must be 0 to 2'),
    (lambda: op.cross_entropy(lambda w, g: w[:, 0], 3, population=2), 'leave candidates out')])
def test_mistakes(call, says):
    with pytest.raises((ConfigError, DataError), match=says): call()


@pytest.fixture(scope='module')
def pong():
    try: return OcAtariSource('Pong', sticky=.25)
    except UserError as e: pytest.skip(str(e).partition(':')[0])

def test_pong_moves_where_the_court_says(pong):
    eyes = op.TruthScene(pong); pong.reset(0)
    for _ in range(60): pong.step(0)
    y = lambda: next(s.y for s in eyes(None) if s.label=='Player')
    up, down = (pong.actions.index(m) for m in op.PONG.moves[1:]); start = y()
    for _ in range(4): pong.step(up)
    assert y()>start + 10                      # the first move raises the coordinate: downwards
    low = y()
    for _ in range(8): pong.step(down)
    assert y()<low - 10

@pytest.mark.slow
def test_pong_is_learned_from_the_benchmark(pong):
    values = json.loads((TOP/'benchmarks'/'play_pong.json').read_text())['results']['pong_learn']['values']; eyes = op.TruthScene(pong)
    games = {k: op.evaluate_policy(pong, eyes, p, op.PONG, range(3), 1500) for k, p in dict(random=op.RandomPolicy(), learned=op.DrivePolicy(tuple(values['ball']['weights']))).items()}
    assert op.margin(games['learned'], games['random']).low>5

def test_benchmark_file_says_by_how_much():
    file = TOP/'benchmarks'/'play_pong.json'
    if not file.exists(): pytest.skip('benchmarks/play_pong.json is made by benchmarks/play_pong.py')
    results = json.loads(file.read_text())['results']
    for part, player in (('pong_truth', 'learned'), ('pong_blobs', 'learned'), ('catch_scene', 'scene_learned')):
        v = results[part]['values'][player]; assert not results[part]['quick'] and v['margin_over_random'][1]>0 and v['games']>=5
        assert np.allclose(op.margin(v['rewards'], results[part]['values']['random']['rewards']), v['margin_over_random'], rtol=1e-3, atol=1e-2)
