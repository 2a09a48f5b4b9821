"Oracles for runs.edits: the original's flags and the traps they had, pairs, the order of all edits, where values come from."
import copy
import pytest
from hypothesis import given, settings, strategies as st
from vislearn.core import ConfigError
from vislearn.runs.config import RECIPES, RunConfig, config_hash, dump_yaml, load_config, parse_yaml, register_recipe
from vislearn.runs.edits import delete, edit, find_replace, modify, pair_changes, read_values, set_mini

VALUES = dict(task='terrain.rep', description='x', data=dict(root='/data', train=dict(name='t')), model=dict(name='m', params=dict(flag=True, sizes=[1, 2])), train=dict(epochs=10, batch_size=24))


def one_line(f, *words):
    "The message of a mistake: one line, exit code 2, with these words."
    with pytest.raises(ConfigError) as e: f()
    text = str(e.value)
    assert '\n' not in text and e.value.exit_code==2 and all(w in text for w in words), text


def test_A04_find_replace_first_pair_only_and_through_lists():
    before = {'a': '/data/x', 'b': {'c': '/data/y'}, 'l': ['/data/z']}; kept = copy.deepcopy(before)
    assert find_replace(before, ['/data', '/mnt', 'x', 'Q'])=={'a': '/mnt/x', 'b': {'c': '/mnt/y'}, 'l': ['/mnt/z']} and before==kept
    assert find_replace({'a': 'x'}, ['/data', '/mnt', 'x', 'Q'])=={'a': 'Q'}
    assert find_replace({'deep': [[{'k': 'xx'}], 3, None, True]}, ['x', 'y'])=={'deep': [[{'k': 'yy'}], 3, None, True]}
    one_line(lambda: find_replace({}, ['a', 'b', 'c']), '--find-replace', 'pairs', "'c'")


def slow_find_replace(value, pairs):
    "The rule of the original, written down as it is told: try the pairs one after the other, stop at the first that changes something."
    if isinstance(value, dict): return {k: slow_find_replace(v, pairs) for k, v in value.items()}
    if isinstance(value, list): return [slow_find_replace(v, pairs) for v in value]
    if isinstance(value, str):
        for i in range(0, len(pairs), 2):
            parts = value.split(pairs[i]); new = pairs[i + 1].join(parts)
            if new!=value: return new
    return value


TREE = st.recursive(st.none()|st.booleans()|st.integers()|st.text('abx/', max_size=6), lambda inner: st.lists(inner, max_size=3)|st.dictionaries(st.text('abx', min_size=1, max_size=2), inner, max_size=3), max_leaves=8)

@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text('abx', min_size=1, max_size=2), TREE, max_size=4), st.lists(st.text('abx/', min_size=1, max_size=3), max_size=6))
def test_find_replace_against_the_slow_rule(tree, words):
    words = words[:len(words)//2*2]
    assert find_replace(tree, words)==slow_find_replace(tree, words)


@pytest.mark.parametrize('word,value', [('False', False), ('false', False), ('no', False), ('0', False), ('OFF', False), ('True', True), ('yes', True), ('1', True), ('on', True)])
def test_A07_modify_reads_booleans(word, value):
    for old in (True, False): assert modify({'flag': old}, ['flag', word])['flag'] is value


@pytest.mark.parametrize('word', ['maybe', '', '2', 'None', 'Falsch', '0.0'])
def test_A07_other_words_are_no_booleans(word): one_line(lambda: modify({'flag': True}, ['flag', word]), '--modify flag', 'true or false', repr(word))


def test_modify_keeps_types():
    old = dict(i=3, f=0.5, t='7', n=None, l=[1], d={'a': 1}, sub=dict(deep=dict(x=1)))
    new = modify(old, 'i 4 f 2 t 012 n 1e-5 l [2,3]'.split() + ['d', '{b: 2}', 'sub.deep.x', '-1'])
    assert new==dict(i=4, f=2., t='012', n=1e-5, l=[2, 3], d={'b': 2}, sub=dict(deep=dict(x=-1))) and isinstance(new['f'], float) and old['i']==3 and old['sub']['deep']['x']==1
    for pairs, words in [(['i', '3.5'], ['an integer', "'3.5'"]), (['i', 'x'], ['an integer']), (['f', 'x'], ['a number']), (['l', '3'], ['a list']), (['d', '[1]'], ['a mapping']), (['i'], ['pairs', "'i'"]), (['ii', '3'], ['no such key', "did you mean 'i'"]),
        (['sub.deep.y', '1'], ['sub.deep.y', 'no such key']), (['i.x', '1'], ['no such key']), (['sub.dep.x', '1'], ["did you mean 'sub.deep.x'"])]: one_line(lambda: modify(old, pairs), '--modify', *words)


def test_defaults_can_be_modified_but_misspelt_keys_not():
    assert RunConfig(**modify(VALUES, ['train.accumulate', '2', 'train.clip_norm', '1.5', 'checkpoint.every_s', '60', 'seed', '3'], RunConfig)).train.clip_norm==1.5
    one_line(lambda: modify(VALUES, ['train.epoch', '2'], RunConfig), "did you mean 'train.epochs'"); one_line(lambda: modify(VALUES, ['epoch', '2'], RunConfig), "did you mean 'train.epochs'")
    one_line(lambda: modify(VALUES, ['seed', '3']), 'no such key') # without the schema only what is there


def test_delete():
    assert delete(dict(a=1, b=dict(c=2, d=3)), ['b.c', 'a'])==dict(b=dict(d=3))
    assert delete(VALUES, ['launch', 'data.test'], RunConfig).keys()==VALUES.keys()
    one_line(lambda: delete(VALUES, ['lanch'], RunConfig), '--delete lanch', 'no such key'); one_line(lambda: delete(VALUES, ['data.roots'], RunConfig), "did you mean 'data.root'"); one_line(lambda: delete(VALUES, ['launch']), 'no such key')


def test_pairs():
    assert pair_changes(['train.max_steps', '5000', 'arch.K', '3'])==['train.max_steps=5000', 'arch.K=3'] and pair_changes(['a', '-1', 'b', 'None'])==['a=-1', 'b=null']
    one_line(lambda: pair_changes(['a', '1', 'b']), "'b' has no partner"); one_line(lambda: pair_changes(['a=1', 'b']), "'a=1' as a key")


def test_order_is_find_replace_modify_delete_changes():
    values = VALUES | dict(label='a', out='a')
    new = edit(values, find_replace=['a', 'b'], modify=['label', 'c'], delete=['out'], changes=['label=d', 'train.epochs=1'], pairs=['train.epochs', '2'])
    assert (new['label'], new['train']['epochs'], 'out' in new, new['data']['root'])==('d', 2, False, '/dbtb') and values['label']=='a'
    assert edit(values, ['a', 'b'], ['label', 'a'])['label']=='a' # the replacement does not see what modify sets
    assert edit(VALUES)==VALUES


def test_changes_reach_what_is_not_in_the_file():
    new = RunConfig(**edit(VALUES, changes=['optim.lr=1e-4', 'train.accumulate=2', 'data.test.name=pairs', '+data.test.params.n=3', '~launch', '+model.params.depth=3', 'model.params.flag=false']))
    assert (new.optim.lr, new.train.accumulate, new.data.test.name, new.data.test.params, new.model.params)==(1e-4, 2, 'pairs', dict(n=3), dict(flag=False, sizes=[1, 2], depth=3))
    bare = dict(task='x.y', model=dict(name='m')) # what is required may come from the command line alone
    full = RunConfig(**edit(bare, changes=['description=by hand', 'data.root=.', 'data.train.name=t', 'train.epochs=1', 'train.batch_size=2']))
    assert full.description=='by hand' and full.train.batch_size==2
    for change, words in [('train.epoch=3', ["did you mean 'epochs'"]), ('epoch=3', ['no key epoch']), ('model.params.z=3', ['write +model.params.z=3']), ('+seed=3', ['without +']), ('seed', ['expected key=value']), ('model.params.sizes.x=3', ['has no keys']), ('seed=[', ['not valid YAML'])]:
        one_line(lambda: edit(VALUES, changes=[change]), *words)
    one_line(lambda: RunConfig(**edit(VALUES, changes=['train.epochs=1.5'])), 'train.epochs: expected an integer, got 1.5')


def test_several_optimizers():
    groups = VALUES | dict(optim=dict(fg=dict(name='rmsprop', lr=1e-5), bg=dict(name='adam')))
    new = RunConfig(**edit(groups, modify=['optim.fg.lr', '3e-5'], changes=['optim.bg.lr=2e-3', '+optim.fg.params.alpha=0.9']))
    assert (new.optim['fg'].lr, new.optim['bg'].lr, new.optim['fg'].params, new.optim['bg'].name)==(3e-5, 2e-3, dict(alpha=.9), 'adam')
    one_line(lambda: edit(groups, changes=['optim.lr=1']), 'no key optim.lr'); one_line(lambda: edit(groups, modify=['optim.fgg.lr', '1']), 'no such key')


def test_mini():
    assert RunConfig(**set_mini(VALUES)).data.mini==100 and RunConfig(**set_mini(VALUES, 7)).data.mini==7 and 'mini' not in VALUES['data']
    assert config_hash(RunConfig(**set_mini(VALUES)))!=config_hash(RunConfig(**VALUES)) # a quick try is another experiment
    for bad in (0, -1): one_line(lambda: set_mini(VALUES, bad), '--mini', 'at least 1')


def test_where_values_come_from(tmp_path):
    (tmp_path/'a.yaml').write_text(dump_yaml(VALUES)); assert read_values(tmp_path/'a.yaml')==VALUES
    (tmp_path/'b.py').write_text(f'from vislearn.runs.config import RunConfig\nconfig = RunConfig(**{VALUES!r})'); assert RunConfig(**read_values(tmp_path/'b.py'))==RunConfig(**VALUES)
    assert RunConfig(**read_values('terrain_rep')).task=='terrain.rep'
    register_recipe('needs_more', 'os.path:join')
    try: one_line(lambda: read_values('needs_more'), 'recipe needs_more')
    finally: del RECIPES['needs_more']
    for name, content, words in [('c.yaml', b'- 1', ['expected keys and values, got list']), ('d.yaml', b'', ['got NoneType']), ('e.yaml', b'\xff', ['UTF-8']), ('f.yaml', b'a: 1\na: 2', ["line 2: key 'a' is given twice"]), ('g.py', b'1/0', ['ZeroDivisionError']),
        ('k.yaml', b'1: 2', ['expected text as key, got 1']), ('h.py', b'x = 1', ['expected a RunConfig named config']), ('i.yaml', b'model_type: Net', ['vislearn config convert']), ('j.yaml', b'arch: {K: 3}', ['vislearn config convert'])]:
        (tmp_path/name).write_bytes(content); one_line(lambda: read_values(tmp_path/name), name, *words)
    one_line(lambda: read_values(tmp_path/'none.yaml'), 'no such config file'); one_line(lambda: read_values('terrain_rap'), "did you mean 'terrain_rep'"); one_line(lambda: read_values('1'), 'recipes are')
    assert load_config(tmp_path/'a.yaml')==RunConfig(**VALUES) and parse_yaml(dump_yaml(VALUES))==VALUES
