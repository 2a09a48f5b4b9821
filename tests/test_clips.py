"Readers of films by name: which one, which split, and what is said when a name or an argument is wrong"
from pathlib import Path

import numpy as np, pytest
from vislearn.clips import Clips, FilmSets
from vislearn.core import ConfigError
from vislearn.objects.data import CLIP_SETS
from vislearn.video.data import FILM_SETS


def films(n=10): return Clips.of(np.zeros((n, 3, 8, 8, 1), np.uint8))


def test_what_a_reader_is_given(tmp_path):
    sets, seen = FilmSets('films'), []
    @sets.add('mine')
    def mine(root, split, n_frames, n=10): seen.append((root, split, n_frames, n)); return films(n)
    assert len(sets.open('mine', tmp_path, 'test', .5, dict(n=4), [15])) == 4 and seen == [(tmp_path, 'test', 15, 4)] and list(sets) == ['mine'] and sets.find('mine') == (mine, True)


def test_films_are_held_out_unless_there_is_a_folder_for_each_split(tmp_path):
    sets = FilmSets('films'); sets.add('mine', own_split=False)(lambda root, split: films())
    train, test = (sets.open('mine', tmp_path, split, .3).names for split in ('train', 'test'))
    assert (len(train), len(test)) == (7, 3) and not set(train) & set(test) and test == sets.open('mine', tmp_path, 'test', .3).names
    (tmp_path/'test').mkdir(); assert len(sets.open('mine', tmp_path, 'test', .3)) == 10 and len(sets.open('mine', tmp_path, 'train', .3)) == 7


def test_wrong_names_and_arguments():
    sets = FilmSets('films'); sets.add('mine')(lambda root, split, n=1: films(n))
    with pytest.raises(ConfigError, match=r"data.train.name: no films 'mien' .did you mean 'mine'.., known are mine"): sets.open('mien', Path('.'), 'train', .2)
    with pytest.raises(ConfigError, match="data.common: films 'mine' do not know 'fps'"): sets.open('mine', Path('.'), 'train', .2, dict(fps=1))
    with pytest.raises(TypeError): sets.open('mine', Path('.'), 'train', .2, dict(n='x'))   # a mistake of the reader itself is not hidden


def test_the_systems_have_their_own_lists(): assert set(CLIP_SETS) == {'sprites', 'atari', 'clips', 'folders'} and {'smmnist', 'bair', 'clips'} < set(FILM_SETS)
