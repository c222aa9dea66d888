"""Engines: ssh, Ray and Slurm place what `deploy/topology.py` describes. None of them schedules."""
