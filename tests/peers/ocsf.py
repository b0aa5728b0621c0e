"""OCSF 1.5.0: what an event must be, from the published schema (https://schema.ocsf.io/1.5.0).

Classes and objects that py-ocsf-models has are judged by it; for the others the required attributes and
the enumerations are written down here.
"""

# Base event and classification: required by every class.
BASE = ("activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid")
CATEGORIES = {2: "Findings", 3: "Identity & Access Management", 6: "Application Activity"}
# class: (caption, activities beside 0 and 99, required, at least one of)
CLASSES = {
    2004: ("Detection Finding", {1, 2, 3}, ("finding_info",), ()),
    3002: ("Authentication", {1, 2, 3, 4, 5, 6, 7}, ("user",), ("service", "dst_endpoint")),
    3003: ("Authorize Session", {1, 2}, ("user",), ("privileges", "group")),
    3004: ("Entity Management", set(range(1, 14)), ("entity",), ()),
    6003: ("API Activity", {1, 2, 3, 4}, ("actor", "api", "src_endpoint"), ()),
}
SEVERITIES = {0: "Unknown", 1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical", 6: "Fatal"}
STATUSES = {0: "Unknown", 1: "Success", 2: "Failure"}
FINDING_STATUSES = {0: "Unknown", 1: "New", 2: "In Progress", 3: "Suppressed", 4: "Resolved"}
ACTIONS = {0: "Unknown", 1: "Allowed", 2: "Denied", 3: "Observed", 4: "Modified"}
DISPOSITIONS = {1: "Allowed", 2: "Blocked", 8: "Approved", 14: "Delayed", 15: "Detected", 19: "Alert",
                23: "Challenge", 24: "Access Revoked", 25: "Rejected", 26: "Unauthorized", 27: "Error"}
USER_TYPES = {0: "Unknown", 1: "User", 2: "Admin", 3: "System", 4: "Service"}
PROTOCOLS = {1: "NTLM", 2: "Kerberos", 3: "Digest", 4: "OpenID", 5: "SAML", 6: "OAUTH 2.0"}
ACTOR = ("process", "user", "invoked_by", "session", "app_name", "app_uid")
USER = ("account", "name", "uid")
ENDPOINT = ("ip", "uid", "name", "hostname", "svc_name", "instance_uid", "interface_uid",
            "interface_name", "domain")
PROFILES = {"cloud", "datetime", "host", "osint", "security_control", "load_balancer", "data_classification",
            "container", "linux_users", "network_proxy", "trace"}


def faults(event):
    """What is wrong with an event, by the schema."""
    out = []

    def want(good, words):
        if not good:
            out.append(words)

    def caption(field, names, other=True):
        """`field`_id is of the enumeration, and its caption is the enumeration's."""
        value = event.get(f"{field}_id")
        want(value in names or (other and value == 99), f"{field}_id {value}")
        if value in names and field in event:
            want(event[field] == names[value], f"{field} {event[field]!r} is not {names[value]!r}")
        if value == 99:
            want(event.get(field), f"{field}_id is 99 and {field} says nothing")

    def one_of(value, names, what):
        want(isinstance(value, dict) and any(value.get(n) for n in names), f"{what} has none of {names}")

    for field in BASE:
        want(event.get(field) is not None, f"no {field}")
    if out:
        return out
    known = CLASSES.get(event["class_uid"])
    if not known:
        return [f"class {event['class_uid']}"]
    name, activities, required, alternatives = known
    want(event.get("class_name") == name, f"class_name {event.get('class_name')!r}")
    want(event["activity_id"] in activities | {0, 99}, f"activity {event['activity_id']} of {name}")
    want(event["activity_id"] != 99 or event.get("activity_name"), "activity 99 without a name")
    want(event["category_uid"] == event["class_uid"] // 1000, "category")
    want(event.get("category_name") == CATEGORIES[event["category_uid"]], "category_name")
    want(event["type_uid"] == event["class_uid"] * 100 + event["activity_id"], "type_uid")
    want(isinstance(event["time"], int) and event["time"] > 10**12, "time is not milliseconds")
    for field in required:
        want(event.get(field), f"no {field}")
    if alternatives:
        want(any(event.get(f) for f in alternatives), f"none of {alternatives}")
    caption("severity", SEVERITIES)
    caption("status", FINDING_STATUSES if event["class_uid"] == 2004 else STATUSES)
    metadata = event["metadata"]
    want(metadata.get("version") == "1.5.0", "metadata.version")
    want(metadata.get("product", {}).get("vendor_name"), "metadata.product.vendor_name")
    profiles = set(metadata.get("profiles", []))
    want(profiles <= PROFILES, f"profiles {profiles}")
    if "security_control" in profiles:
        caption("action", ACTIONS)
        caption("disposition", DISPOSITIONS)
    else:
        want("action_id" not in event and "disposition_id" not in event, "a profile that is not named")
    if "actor" in event:
        one_of(event["actor"], ACTOR, "actor")
    for user in (event.get("user"), event.get("actor", {}).get("user")):
        if user is not None:
            one_of(user, USER, "user")
            want(user.get("type_id") in USER_TYPES or user.get("type_id") == 99, "user.type_id")
    if "src_endpoint" in event:
        one_of(event["src_endpoint"], ENDPOINT, "src_endpoint")
    if "api" in event:
        want(event["api"].get("operation"), "api.operation")
    if "entity" in event:
        one_of(event["entity"], ("name", "uid"), "entity")
    if "service" in event:
        one_of(event["service"], ("name", "uid"), "service")
    if "auth_protocol_id" in event:
        caption("auth_protocol", PROTOCOLS)
    if "privileges" in event:
        want(all(isinstance(p, str) and p for p in event["privileges"]), "privileges")
    return out


def judged(event):
    """Lets py-ocsf-models judge what it has of an event; raises on what it refuses. How many objects."""
    from py_ocsf_models.events.base_event import BaseEvent
    from py_ocsf_models.events.findings.detection_finding import DetectionFinding
    from py_ocsf_models.objects.api import API
    from py_ocsf_models.objects.enrichment import Enrichment
    from py_ocsf_models.objects.metadata import Metadata
    from py_ocsf_models.objects.policy import Policy
    from py_ocsf_models.objects.resource_details import ResourceDetails
    from py_ocsf_models.objects.user import User
    count = 1
    if event["class_uid"] == 2004:
        DetectionFinding.model_validate(event)
    else:
        # Its status is a finding's; the other classes have their own.
        BaseEvent.model_validate({k: v for k, v in event.items() if not k.startswith("status")})
    Metadata.model_validate(event["metadata"])
    objects = [(User, event.get("user")), (User, event.get("actor", {}).get("user")),
               (API, event.get("api"))]
    objects += [(ResourceDetails, r) for r in event.get("resources", [])]
    objects += [(Enrichment, e) for e in event.get("enrichments", [])]
    objects += [(Policy, a["policy"]) for a in event.get("authorizations", [])]
    for model, value in objects:
        if value is not None:
            model.model_validate(value)
            count += 1
    return count
