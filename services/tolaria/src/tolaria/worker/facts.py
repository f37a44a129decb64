"""What stays the same over a run, collected once for greetings and contexts."""

from __future__ import annotations

from esper_core import leyline
from esper_core.blueprints import load_catalogue
from esper_core.blueprints.messages import contract_to_message
from tolaria.growth.evidence import bare_layers
from tolaria.reporting.records import RunFacts
from tolaria.training.session import Session


def run_facts(session: Session) -> RunFacts:
    """Return the facts of a session; the sites come in the order in which the task would try them."""
    plan, host = session.plan, session.host
    order = {name: index for index, name in enumerate(session.task.default_spec().growth.sites)}
    sites = sorted(host.sites, key=lambda site: order.get(site.name, len(order)))
    return RunFacts(
        run_id=plan.run_id,
        task=plan.task,
        policy=plan.growth.policy,
        flops_budget=plan.budget.flops,
        parameters_budget=plan.growth.max_parameters,
        seeds_budget=plan.growth.max_seeds,
        sites=tuple(
            leyline.Site(
                name=site.name,
                module_path=site.module_path,
                contract=contract_to_message(host.contract(site.name)),
                depth=site.depth,
                blueprint_ids=site.blueprint_ids,
            )
            for site in sites
        ),
        blueprint_ids=plan.growth.blueprint_ids or eligible_blueprints(session),
        host_parameters=session.counters.parameters_initial,
        steps_per_epoch=session.sampler.batches_per_epoch,
        random_seed=plan.random_seed,
        isolation=plan.growth.isolation,
        host_layers=tuple(bare_layers(host)),
        device=plan.device,
        allow_restricted=plan.growth.allow_restricted,
    )


def eligible_blueprints(session: Session) -> tuple[str, ...]:
    """Return every blueprint that may be used freely and fits a site, those that the task found best first."""
    preferred = session.task.default_spec().growth.blueprint_ids
    contracts = [session.host.contract(site.name) for site in session.host.sites]
    fitting = [
        blueprint.blueprint_id
        for blueprint in load_catalogue()
        if blueprint.tier == "SAFE" and not blueprint.quarantine_only and any(map(blueprint.fits, contracts))
    ]
    first = [name for name in preferred if name in fitting]
    return (*first, *(name for name in fitting if name not in first))
