"""The `supple` command with energy as a sixth cost: `python -m tests.support.energy search BUNDLE`."""

from evolution.costs import AdditiveCost, CostTables
from service import costs
from service.quantities import Units


def energy_cost(tables: CostTables) -> AdditiveCost:
    """The energy of an image in mJ, the sum of what each block takes. A block's energy is made up from its key."""
    energy_mj = {key: int(key, 16) % 97 / 16 for key in tables.block_keys if key is not None}
    return AdditiveCost(tables, "energy_mj", tables.block_values(energy_mj))


ENERGY = costs.CostKind(
    "energy_mj",
    label="energy",
    lowest="lowest",
    unit="millijoules",
    description="millijoules for one image",
    units=Units({"J": 1e3, "mJ": 1.0}, ("2.5mJ",)),
    example="40mJ",
    build=energy_cost,
    whole=False,
)

if __name__ == "__main__":
    costs.COSTS += (ENERGY,)
    from service.cli.main import main

    main()
