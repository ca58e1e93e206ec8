"""The parts of bench/serving.py: peers, load, scenarios, bars, report."""
