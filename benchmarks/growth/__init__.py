"""Does growing pay? Small, big, grown on a schedule, by the controller, at random: at equal training FLOPs, paired.

Start reading in `cases.py`: what is compared. `run.py` trains one arm with Tolaria's own loop; `control.py` lets
Kasmina and Tamiyo take turns with it, in this process and on a clock that counts steps.
"""
