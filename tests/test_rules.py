"The house rules: floors, sync, documentation of parameters, sidebar, sizes, notebook form, versions in one place"
import ast, configparser, hashlib, json, re, shutil, subprocess, sys, tomllib
from pathlib import Path

import pytest, yaml

TOP = Path(__file__).parents[1]
NBS = sorted(p for p in (TOP/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
MODULES = sorted(p for p in (TOP/'vislearn').rglob('*.py') if p.name not in ('__init__.py', '_modidx.py'))
FLOORS = {'core': 0, 'store': 0, 'nets': 1, 'losses': 1, 'metrics': 1, 'viz': 1, 'clips': 1, 'docs': 1, 'registry': 1, 'procs': 1, 'formats': 1, 'movies': 1, 'runs': 2, 'callbacks': 2.5, 'loaders': 2.5, 'learn': 2.5, 'supervised': 2.5, 'worker': 2.5, 'training': 2.5, 'robot': 3, 'synth': 4,
          'terrain': 5, 'video': 5, 'objects': 5, 'control': 5, 'cli': 6, 'reports': 6, '__main__': 7}
ids = lambda paths: [str(p.relative_to(TOP)) for p in paths]


def cells(nb): return json.loads(nb.read_text())['cells']
def source(c): return ''.join(c['source'])
def module(p): return '.'.join(p.relative_to(TOP/'vislearn').with_suffix('').parts)
def notebook_of(p): return TOP/'nbs'/re.search(r'File to edit: (?:\.\./)+nbs/(\S+\.ipynb)', p.read_text())[1]


def imports(p):
    "Modules of vislearn that `p` imports, dotted and without the package name."
    res, package = set(), module(p).split('.')[:-1]
    for node in ast.walk(ast.parse(p.read_text())):
        if isinstance(node, ast.Import): res |= {a.name.removeprefix('vislearn.') for a in node.names if a.name.startswith('vislearn.')}
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or '').split('.')[0] == 'vislearn'):
            base = package[:len(package)-node.level+1] if node.level else []
            name = '.'.join(base + [node.module.removeprefix('vislearn').strip('.')] if node.module else base).strip('.')
            res |= {name} if (TOP/'vislearn'/(name.replace('.', '/')+'.py')).exists() else {f'{name}.{a.name}'.strip('.') for a in node.names}
    return res


@pytest.mark.parametrize('path', MODULES, ids=ids(MODULES))
def test_floors(path):
    me = module(path); top = me.split('.')[0]
    assert top in FLOORS, f'{me}: say on which floor it lives'
    order, flat = {module(p): notebook_of(p).name for p in MODULES}, '.' not in me
    for other in imports(path):
        other_top = other.split('.')[0]
        if other_top == top or (flat and '.' not in other and FLOORS[other_top] == FLOORS[top]): assert order[other] <= order[me], f'{me} imports {other}, which comes later in its folder'
        else: assert FLOORS[other_top] < FLOORS[top], f'{me} (floor {FLOORS[top]}) imports {other} (floor {FLOORS[other_top]})'


def test_imports_are_seen():
    "The walker above finds relative and absolute imports (it must be able to fail)."
    found = set().union(*(imports(p) for p in MODULES))
    assert 'core' in found and any('.' in f for f in found)


def test_export_and_clean_change_nothing(tmp_path):
    for d in ('nbs', 'vislearn'): shutil.copytree(TOP/d, tmp_path/d, symlinks=True, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for f in ('settings.ini', '_quarto.yml', 'pyproject.toml'): shutil.copy(TOP/f, tmp_path/f)
    before = {p.relative_to(tmp_path): p.read_bytes() for d in ('nbs', 'vislearn') for p in (tmp_path/d).rglob('*') if p.suffix in ('.py', '.ipynb')}
    bin = Path(sys.executable).parent
    for cmd in ('nbdev_export', 'nbdev_clean'): subprocess.run([bin/cmd], cwd=tmp_path, check=True, capture_output=True)
    after = {p.relative_to(tmp_path): p.read_bytes() for d in ('nbs', 'vislearn') for p in (tmp_path/d).rglob('*') if p.suffix in ('.py', '.ipynb')}
    assert not (d := [str(k) for k in before.keys() | after.keys() if before.get(k) != after.get(k)]), f'out of step, run make sync: {d}'


@pytest.mark.parametrize('path', MODULES, ids=ids(MODULES))
def test_module_has_its_notebook_and_size(path):
    nb = notebook_of(path)
    assert nb.exists(), f'{path.name}: its notebook {nb.name} is gone, remove the module'
    assert len(path.read_text().splitlines()) <= 400, 'split by idea: a module has at most 400 lines'


def documented(path):
    "Signature problems of the public functions and methods in one module."
    src = path.read_text(); lines, bad = src.splitlines(), []
    tree = ast.parse(src)
    methods = {id(f) for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for f in c.body}
    private = {id(f) for c in ast.walk(tree) if isinstance(c, ast.ClassDef) and c.name.startswith('_') for f in c.body}
    callbacks = {id(f) for c in ast.walk(tree) if isinstance(c, ast.ClassDef) and c.name.endswith('CB') for f in c.body}
    for f in [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]:
        if f.name.startswith('_') or id(f) in private: continue
        top = f in tree.body or id(f) in methods
        if not top: continue
        doc = ast.get_docstring(f)
        event = id(f) in callbacks and f.name.startswith(('before_', 'after_')) or f.name == 'forward'
        if not doc and not event: bad.append(f'{f.name}: no docstring')
        if doc and len(doc.splitlines()[0]) > 100: bad.append(f'{f.name}: first line of the docstring is over 100 characters')
        if isinstance(f, ast.ClassDef) or event: continue
        args = [a for a in f.args.posonlyargs + f.args.args + f.args.kwonlyargs + [x for x in (f.args.vararg, f.args.kwarg) if x] if a.arg not in ('self', 'cls')]
        for a in args:
            if a.annotation is None: bad.append(f'{f.name}: parameter {a.arg} has no type')
            if id(f) not in methods and '#' not in lines[a.lineno-1]: bad.append(f'{f.name}: parameter {a.arg} has no comment')
            if a.annotation is not None and ast.unparse(a.annotation) == 'Any': bad.append(f'{f.name}: parameter {a.arg} is Any')
    return bad


@pytest.mark.parametrize('path', MODULES, ids=ids(MODULES))
def test_documented(path): assert documented(path) == []


def test_documented_can_fail(tmp_path):
    f = tmp_path/'x.py'; f.write_text('def a(b, # fine\n c:int):\n    return b\n')
    assert documented(f) == ['a: no docstring', 'a: parameter b has no type', 'a: parameter c has no comment']


@pytest.mark.parametrize('nb', NBS, ids=ids(NBS))
def test_notebook_form(nb):
    cs = cells(nb); first = source(cs[0])
    assert cs[0]['cell_type'] == 'markdown' and re.match(r'# .+\n+> .+', first), 'begins with `# title` and `> one line`'
    assert nb.stat().st_size < 500_000, 'a notebook stays below 500 KB: smaller figures'
    exp = next((m[1] for c in cs if (m := re.search(r'#\|\s*default_exp (\S+)', source(c)))), None)
    if exp:
        stem = '.'.join([*nb.relative_to(TOP/'nbs').parts[:-1], re.sub(r'^\d+_', '', nb.stem)])
        assert exp == stem == re.match(r'# (\S+)', first)[1], f'exports {exp}, file says {stem}, title says {first.splitlines()[0]}'
    assert all(c['outputs'] == [] or not re.search(r'"(/home|/root|/work|/tmp)/', json.dumps(c['outputs'])) for c in cs if c['cell_type'] == 'code'), 'an output holds a path of this machine'
    assert not any(o.get('output_type') == 'error' for c in cs if c['cell_type'] == 'code' for o in c['outputs']), 'a stored output is an error'


@pytest.mark.parametrize('nb', NBS, ids=ids(NBS))
def test_no_cell_mixes_imports_and_code(nb):
    for c in cells(nb):
        if c['cell_type'] != 'code': continue
        src = re.sub(r'^\s*[%!].*$', 'pass', source(c), flags=re.M)
        body = ast.parse(src).body; kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) or (isinstance(n, ast.If) and ast.unparse(n.test) == 'TYPE_CHECKING') for n in body}
        assert len(kinds) < 2, f'cell imports and does something else: {source(c)[:80]!r}'


def test_every_notebook_is_in_the_sidebar():
    def walk(items): return sum([walk(i['contents']) if isinstance(i, dict) else [i] for i in items], [])
    listed = walk(yaml.safe_load((TOP/'_quarto.yml').read_text())['website']['sidebar']['contents'])
    assert sorted(listed) == sorted(str(p.relative_to(TOP/'nbs')) for p in NBS) and len(set(listed)) == len(listed)


def test_numbers_in_a_folder_have_no_gaps():
    for d in {p.parent for p in NBS}:
        numbers = sorted(int(p.name[:2]) for p in NBS if p.parent == d and p.name[:2].isdigit())
        assert numbers in (list(range(len(numbers))), list(range(1, len(numbers)+1))), f'{d.name}: {numbers}'


def test_one_source_for_name_description_flags():
    ini = configparser.ConfigParser(); ini.read(TOP/'settings.ini'); ini = ini['DEFAULT']
    toml = tomllib.loads((TOP/'pyproject.toml').read_text())
    assert (ini['lib_name'], ini['description'], ini['tst_flags']) == (toml['project']['name'], toml['project']['description'], toml['tool']['nbdev']['tst_flags'])
    assert f'__version__ = "{ini["version"]}"' in (TOP/'vislearn'/'__init__.py').read_text()
    assert (TOP/'nbs'/'_quarto.yml').is_symlink() and (TOP/'nbs'/'_quarto.yml').read_text() == (TOP/'_quarto.yml').read_text()


def test_every_dependency_is_pinned_for_tests():
    toml = tomllib.loads((TOP/'pyproject.toml').read_text())['project']
    pinned = {re.split('==', line)[0].lower().replace('_', '-') for line in (TOP/'constraints.txt').read_text().splitlines() if '==' in line}
    wanted = {re.split(r'[<>=!\[ ]', d)[0].lower().replace('_', '-') for d in toml['dependencies'] + sum(toml['optional-dependencies'].values(), [])} - {'vislearn'}
    assert wanted <= pinned, f'not in constraints.txt: {sorted(wanted - pinned)}'


def test_every_test_file_has_a_module():
    known = {module(p).replace('.', '_') for p in MODULES} | {module(p).split('.')[-1] for p in MODULES} | {'rules', 'demo', 'cli', 'real_bags', 'real_parts', 'site', 'data', 'import', 'parity'}
    for t in (TOP/'tests').glob('test_*.py'): assert any(k in t.stem for k in known), f'{t.name}: name it after a module'


def test_real_data_hashes():
    lines = (TOP/'data'/'real'/'SHA256SUMS').read_text().splitlines()
    for line in lines:
        digest, name = line.split(maxsplit=1)
        assert hashlib.sha256((TOP/'data'/'real'/name).read_bytes()).hexdigest() == digest, name
    listed = {str(Path(line.split(maxsplit=1)[1])) for line in lines}
    real = TOP/'data'/'real'
    assert {str(p.relative_to(real)) for p in real.rglob('*') if p.is_file()} - listed == {'README.md', 'SHA256SUMS'}
    assert sum(p.stat().st_size for p in real.rglob('*')) < 24e6


def test_python_files_have_no_undefined_names():
    r = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--quiet', '--select', 'F,E9', '--ignore', 'F403,F405,F811', '--exclude', '_modidx.py', 'vislearn', 'tests', 'tools', 'benchmarks'],
        cwd=TOP, capture_output=True, text=True)
    assert r.returncode == 0, r.stdout


def test_every_acceptance_line_has_a_test():
    "A1 to A34 of the runs specification: each is shown by a test that carries its number."
    found = {int(n) for p in (TOP/'tests').glob('test_*.py') for n in re.findall(r'def test_\w*?A(\d\d)_', p.read_text())}
    assert found == set(range(1, 35)), f'without a test: {sorted(set(range(1, 35))-found)}'


@pytest.mark.parametrize('letter, facts', [('V', range(16)), ('O', range(1, 17))], ids=['video', 'objects'])
def test_every_acceptance_fact_has_a_test(letter, facts):
    "V: stochastic video generation, 0 is counts and shapes. O: objects, 16 is that they learn. Speed is in the benchmarks."
    found = {int(n) for p in (TOP/'tests').glob('test_*.py') for n in re.findall(rf'def test_\w*?{letter}(\d\d)_', p.read_text())}
    assert found >= set(facts), f'without a test: {sorted(set(facts)-found)}'
