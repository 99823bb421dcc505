"The programs: `python -m slm_scratch train|generate|eval|demo`, and `torchrun -m slm_scratch train`"
import slm_scratch.engine.demo # adds itself, and those of cli, to the programs
from slm_scratch.engine.shell import main

if __name__ == '__main__': main()
