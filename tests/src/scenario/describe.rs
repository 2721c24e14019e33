//! What the agent's tables hold, for who reads why a scenario failed.

use weir_agent::maps::Contents;

/// A line an entry.
pub(super) fn describe(contents: &Contents) -> String {
    let policies = contents
        .pods
        .iter()
        .map(|(index, pod)| format!("  pod at {index}: {pod:?}"));
    let policies: Vec<String> = policies
        .chain(contents.pod_addrs.iter().map(|addr| format!("  {addr:?}")))
        .chain(
            contents
                .peers
                .iter()
                .map(|(addr, class)| format!("  {addr:?}: {class:?}")),
        )
        .chain(
            contents
                .peer_ranges
                .iter()
                .map(|(cidr, class)| format!("  {cidr:?}: {class:?}")),
        )
        .chain(
            contents
                .rules
                .iter()
                .map(|(key, rule)| format!("  {key:?}: rule {rule}")),
        )
        .collect();
    let mut lines = vec!["the tables held".to_owned()];
    lines.extend(contents.frontends.iter().map(|(key, frontend)| {
        format!(
            "  frontend {} port {} {} of service {}",
            key.addr, key.port, key.protocol, frontend.service
        )
    }));
    lines.extend(contents.services.iter().map(|(number, service)| {
        format!(
            "  service {number}: {} backends, revision {}",
            service.backend_count, service.revision
        )
    }));
    lines.extend(contents.backends.iter().map(|(key, backend)| {
        format!(
            "  backend {} port {} in slot {} of service {}",
            backend.addr, backend.port, key.slot, key.service
        )
    }));
    lines.extend(policies);
    lines.push(format!("  {:?}", contents.policy));
    lines.push(format!("  {:?}", contents.node));
    lines.join("\n")
}
