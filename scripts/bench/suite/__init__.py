"""The same training steps side by side in one process: plain, recorded by `ics`, and with what others offer.

    scripts/bench/suite/environment.sh                        # .bench-venv: ics and its peers, pinned
    .bench-venv/bin/python -m scripts.bench.suite             # docs/bench/suite_*.csv
    .bench-venv/bin/python -m scripts.bench.suite.growth      # docs/bench/growth_*.csv
    .bench-venv/bin/python -m scripts.bench.suite.page        # docs/performance.md and its figures

nets.py       what is trained, and an ordinary training of it
ways.py       a way to take a training step, and all of them by name
ics_ways.py   those of `ics`
rivals.py     those of others, each as its own documentation uses it
stages.py     which ways are timed together, how often, in how long blocks
timed.py      ways in turns -> a row per way
disk.py       what a recorded step leaves on disk, and what writing it takes
growth.py     cost against depth, width, batch and length of the run
rows.py       rows to and from CSV
targets.py    rows -> met or missed
figures.py    rows -> PNG
page.py       rows -> docs/performance.md, with the words of prose.py
"""
