"""Leyline: every message and enum that Esper's services share, under one name.

`from esper_core import leyline`, then `leyline.AdaptationCommand` or `leyline.SEED_STAGE_TRAINING`. The entrance checks
`validate`, `reject_unspecified` and `require_version` are here as well.
"""

# ruff: noqa: F403 - the facade is meant to show exactly what the generated modules show
from esper_core.contract import *
from esper_core.pb.esper.leyline.v1.blueprints_pb2 import *
from esper_core.pb.esper.leyline.v1.commands_pb2 import *
from esper_core.pb.esper.leyline.v1.common_pb2 import *
from esper_core.pb.esper.leyline.v1.directives_pb2 import *
from esper_core.pb.esper.leyline.v1.enums_pb2 import *
from esper_core.pb.esper.leyline.v1.messaging_pb2 import *
from esper_core.pb.esper.leyline.v1.policy_pb2 import *
from esper_core.pb.esper.leyline.v1.reports_pb2 import *
from esper_core.pb.esper.leyline.v1.runs_pb2 import *
from esper_core.pb.esper.leyline.v1.seeds_pb2 import *
from esper_core.pb.esper.leyline.v1.training_pb2 import *
