"""The studies of `learned_optimizer`, by the names that config.py gives them."""

from experiments.learned_optimizer import anatomy, races

STUDIES = {
    "meta_train": anatomy.meta_train,
    "in_distribution": races.in_distribution,
    "new_initialisation": races.new_initialisation,
    "new_dataset": races.new_dataset,
    "longer_horizon": races.longer_horizon,
    "ablations": anatomy.ablations,
    "specialisation": anatomy.specialisation,
    "what_it_learned": anatomy.what_it_learned,
    "cost": anatomy.cost,
}
