"The four programs: `python -m slm_scratch train|generate|eval|demo`, also for `torchrun -m slm_scratch train`."
import slm_scratch.engine.demo # adds itself to the programs
from slm_scratch.engine.cli import main

if __name__ == '__main__': main()
