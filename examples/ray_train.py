"""Train on a Ray cluster: one torchrun on each machine, which Ray places and starts.

    python examples/ray_train.py 2 8 examples/sft.yaml --output_dir /shared/output     # 2 machines of 8 GPUs

With 0 GPUs it starts one process on a CPU of each place. Ray only launches: the processes find each other, save and go
on as with torchrun by hand. The folder of the model, the data and the output must be seen by all machines.
"""

from __future__ import annotations

import subprocess
import sys

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

PORT = 29500


@ray.remote
def address() -> str:
    """Where the processes meet: the first machine."""
    return str(ray.util.get_node_ip_address())


@ray.remote
def launch(number: int, nodes: int, gpus: int, head: str, words: list[str]) -> None:
    """Start this machine's processes and wait for them."""
    place = [f"--nnodes={nodes}", f"--node_rank={number}", f"--master_addr={head}", f"--master_port={PORT}"]
    command = ["torchrun", f"--nproc_per_node={max(gpus, 1)}", *place, "-m", "carellama", "train", *words]
    subprocess.run(command, check=True)


def main() -> None:
    """Take as many whole machines as asked for, and train."""
    nodes, gpus, words = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    ray.init()
    needs = {"GPU": gpus, "CPU": 1} if gpus else {"CPU": 1}
    group = placement_group([needs] * nodes, strategy="STRICT_SPREAD" if gpus else "PACK")
    ray.get(group.ready())
    places = [
        {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)}
        for number in range(nodes)
    ]
    head = ray.get(address.options(num_cpus=1, **places[0]).remote())
    running = [
        launch.options(num_cpus=1, num_gpus=gpus, **place).remote(number, nodes, gpus, head, words)
        for number, place in enumerate(places)
    ]
    ray.get(running)


if __name__ == "__main__":
    main()
