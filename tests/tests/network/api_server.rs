//! An agent that hears from an API server, which is a host beside the nodes: TLS, a token, a few
//! thousand objects, and a server that goes, forgets, and refuses.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_agent::compile::{Capacities, Ids, NodeContext, compile};
use weir_agent::listing::services::service_ports;
use weir_agent::model::{Cluster, Kind, Object};
use weir_agent::sources::decode;
use weir_tests::bed::manifests::{self, Endpoint, ServicePort};
use weir_tests::bed::wait::wait_for;
use weir_tests::bed::{Agent, AgentOptions, Bed, Family, Pod, Topology, Wiring, plan};
use weir_tests::fake_api::{Cut, FakeApi, Options, Refusal, Resource, ServiceAccount};
use weir_tests::testpod::protocol::{Carrier, Inquiry};

use crate::world::{SERVICE_PORT, TARGET_PORT, WEB, World, weir};

/// Of the API server.
const HOST: u8 = 100;
const PORT: u16 = 6443;
/// Further services, each with a slice, and as many pods.
const FURTHER: usize = 1_000;
/// The agent waits half a minute between attempts when many have failed.
const LIMIT: Duration = Duration::from_secs(180);
/// Who is let through is answered long before, in milliseconds.
const SILENCE: u64 = 2_000;

/// Fields are dropped from first to last: the agent before the bed.
struct Ground {
    agent: Agent,
    client: Pod,
    near: Pod,
    other: Pod,
    api: FakeApi,
    account: ServiceAccount,
    bed: Bed,
}

impl Ground {
    /// A node with three pods, an API server with their objects and these, and an agent that has
    /// heard all.
    fn start(further: Vec<Value>, prepare: impl FnOnce(&FakeApi)) -> Result<Self> {
        let weir = weir()?;
        let bed = Bed::start(Topology::one_node(Wiring::Routed))?;
        let near = bed.pod(0, "near", 2)?;
        let other = bed.pod(0, "other", 3)?;
        let client = bed.pod(0, "client", 9)?;
        for pod in [&near, &other] {
            pod.serve_at(TARGET_PORT)?;
        }
        let host = bed.host("api", HOST)?;
        let api = FakeApi::start_in(
            &host,
            &Options {
                address: (plan::host(HOST), PORT).into(),
                is_secure: true,
                ..Options::default()
            },
        )?;
        api.apply([
            manifests::node(bed.node(0).plan()),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}),
        ])?;
        api.apply([&near, &other, &client].map(pod))?;
        api.apply(web(&near))?;
        api.apply(further)?;
        prepare(&api);
        let account = api.service_account(&bed.directory("service-account")?)?;
        let directory = account
            .directory()
            .to_str()
            .context("a bed's paths are UTF-8")?;
        let url = api.url();
        let flags = [
            "--api-server",
            &url,
            "--service-account-dir",
            directory,
            "--watch-seconds",
            "10",
        ];
        let options = AgentOptions::of_api_server(&weir, &flags);
        let agent = Agent::start(bed.node(0), &options)?;
        Ok(Self {
            agent,
            client,
            near,
            other,
            api,
            account,
            bed,
        })
    }

    /// The service answers a pod, and nobody but this one does.
    fn expect_answers(&self, name: &str) -> Result<()> {
        for family in Family::ALL {
            let to = WEB.at(family);
            World::expect_answers_from(&[name], || self.client.tcp_ask(to))?;
        }
        Ok(())
    }

    /// The service answers a pod, sooner or later.
    fn wait_answer(&self, is_wanted: bool) -> Result<()> {
        wait_for(
            || format!("an answer: {is_wanted}"),
            LIMIT,
            || Ok(self.is_answered()? == is_wanted),
        )
    }

    /// Does the service answer a pod before [`SILENCE`] is over?
    fn is_answered(&self) -> Result<bool> {
        let question = Inquiry {
            to: WEB.at(Family::V4),
            by: Carrier::Tcp,
            timeout: SILENCE,
        };
        let answers = self.client.inquire(vec![question])?;
        Ok(answers.iter().all(Result::is_ok))
    }

    /// Waits until what is known of a kind is as `condition` says.
    fn wait_source(&mut self, kind: Kind, condition: impl Fn(&Value) -> bool) -> Result<()> {
        let name = kind.to_string();
        let pid = self.agent.id();
        self.agent
            .wait_status(&format!("news of {kind}"), |status| {
                let mut sources = status["sources"].as_array().into_iter().flatten();
                status["pid"] == pid
                    && sources.any(|source| source["kind"] == name.as_str() && condition(source))
            })?;
        Ok(())
    }

    /// What the kernel's tables hold of services.
    fn tables(&self) -> Result<Value> {
        let node = self.bed.node(0);
        let bpffs = node.bpffs();
        let bpffs = bpffs.to_str().context("a bed's paths are UTF-8")?;
        let arguments = ["service", "list", "--bpffs", bpffs, "-o", "json"];
        let output = node.weir(&weir()?, &arguments)?;
        ensure!(output.status.success(), "weir service list: {output:?}");
        let list: Value = serde_json::from_slice(&output.stdout)?;
        Ok(plain(&list["servicePorts"]))
    }

    /// What they should hold: what is compiled of the objects that the server holds.
    fn expected(&self) -> Result<Value> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let objects = self.api.objects();
        // The agent's own Events are there, too, and are of a kind that it does not read.
        let objects = objects.iter().filter_map(|object| {
            let kind = Kind::of(&text(&object["apiVersion"]), &text(&object["kind"]))?;
            let object = decode::object(kind, object);
            Some(object.map_err(|invalid| anyhow::anyhow!("{kind}: {invalid:?}")))
        });
        let cluster = Cluster::from_objects(objects.collect::<Result<Vec<Object>>>()?);
        let plan = self.bed.node(0).plan();
        let context = NodeContext {
            name: plan.name.clone(),
            addr_v4: Some(plan.v4),
            addr_v6: Some(plan.v6),
            ..NodeContext::default()
        };
        let capacities = Capacities::default();
        let desired = compile(&cluster, &context, &mut Ids::default(), &capacities);
        let ports = serde_json::to_value(service_ports(&desired.contents))?;
        Ok(plain(&ports))
    }

    /// Waits until the kernel's tables hold what the server holds.
    fn wait_same(&self) -> Result<()> {
        let expected = self.expected()?;
        let mut last = Value::Null;
        let outcome = wait_for(
            || "the tables to hold what the server holds".to_owned(),
            LIMIT,
            || {
                last = self.tables()?;
                Ok(last == expected)
            },
        );
        outcome.with_context(|| difference(&last, &expected))
    }

    fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| self.agent.log_tail(25))
    }
}

/// The service ports without what depends on the order in which they came: numbers, slots, and
/// how often they changed.
fn plain(ports: &Value) -> Value {
    let mut ports = ports.as_array().cloned().unwrap_or_default();
    for port in &mut ports {
        for address in port["addresses"].as_array_mut().into_iter().flatten() {
            for number in ["number", "outsideNumber"] {
                address[number] = Value::Null;
            }
        }
        for part in port["families"].as_array_mut().into_iter().flatten() {
            for number in ["number", "revision"] {
                part[number] = Value::Null;
            }
            let mut backends = part["backends"].as_array().cloned().unwrap_or_default();
            for backend in &mut backends {
                backend["slot"] = Value::Null;
            }
            backends.sort_by_key(ToString::to_string);
            part["backends"] = Value::Array(backends);
        }
    }
    Value::Array(ports)
}

/// The first service port that is not the same.
fn difference(seen: &Value, expected: &Value) -> String {
    let all = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (seen, expected) = (all(seen), all(expected));
    let first = seen.iter().zip(&expected).find(|(one, other)| one != other);
    format!(
        "{} service ports instead of {}; the first that differs: {first:#?}",
        seen.len(),
        expected.len()
    )
}

/// The service and its endpoint.
fn web(backend: &Pod) -> Vec<Value> {
    let port = |port| {
        [ServicePort {
            name: "tcp",
            port,
            protocol: "TCP",
        }]
    };
    let ips = Family::ALL.map(|family| WEB.ip(family));
    let mut objects = vec![manifests::service(WEB.name, &ips, &port(SERVICE_PORT))];
    for family in Family::ALL {
        let endpoint = Endpoint {
            addr: backend.addr(family),
            node: backend.node().name().to_owned(),
        };
        objects.push(manifests::slice(
            WEB.name,
            family,
            &port(TARGET_PORT),
            &[endpoint],
        ));
    }
    objects
}

/// The object of a pod of the bed.
fn pod(pod: &Pod) -> Value {
    let addresses = Family::ALL.map(|family| json!({ "ip": pod.addr(family) }));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name(), "namespace": "default", "labels": {"app": pod.name()}},
        "spec": {"nodeName": pod.node().name(), "containers": []},
        "status": {"phase": "Running", "podIP": pod.addr(Family::V4), "podIPs": addresses},
    })
}

/// A service of another namespace, with two endpoints elsewhere, one of which is a pod.
fn further(number: usize) -> [Value; 3] {
    let (high, low) = (number / 200, 1 + number % 200);
    let name = format!("service-{number}");
    let ip = format!("10.33.{high}.{low}");
    let endpoint = |range: u8| json!({"addresses": [format!("10.{range}.{high}.{low}")]});
    [
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "further"},
            "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": "further",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [endpoint(201), endpoint(202)],
        }),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "further", "labels": {"app": name}},
            "spec": {"nodeName": "elsewhere", "containers": []},
            "status": {"phase": "Running", "podIP": format!("10.201.{high}.{low}")},
        }),
    ]
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn what_the_api_server_says_is_served_whether_it_is_there_or_not() -> Result<()> {
    let objects = (0..FURTHER).flat_map(further).collect();
    let mut ground = Ground::start(objects, |_| ())?;
    let result = outlived(&mut ground);
    ground.explain(result)
}

fn outlived(ground: &mut Ground) -> Result<()> {
    ground.expect_answers("near")?;
    ground.wait_same()?;

    // Gone, and back with other objects and without memory.
    ground.api.leave()?;
    ground.wait_source(Kind::Service, |source| {
        source["state"] == "failing" && source["error"].is_string()
    })?;
    ground.expect_answers("near")?;
    ground.api.apply(web(&ground.other))?;
    for number in 0..FURTHER / 2 {
        for object in further(number) {
            ground.api.delete(&object)?;
        }
    }
    ground
        .api
        .apply((FURTHER..FURTHER + 100).flat_map(further))?;
    ground.api.forget_history();
    ground.expect_answers("near")?;
    ground.api.come_back()?;
    ground.wait_same().context("back with other objects")?;
    ground.expect_answers("other")?;

    // A token that nobody renewed in time.
    let token = ground.api.renew_token();
    ground.api.cut_watches(Cut::Close);
    ground.wait_source(Kind::Service, |source| {
        let error = source["error"].as_str().unwrap_or_default();
        source["state"] == "failing" && error.contains("credentials")
    })?;
    ground.api.apply(web(&ground.near))?;
    ground.expect_answers("other")?;
    ground.account.set_token(&token)?;
    ground.wait_same().context("with another token")?;
    ground.expect_answers("near")?;

    // An agent that starts while nobody is there writes nothing before it has heard all.
    ground.agent.kill()?;
    ground.api.leave()?;
    let before = ground.tables()?;
    ground.agent.relaunch()?;
    ground.wait_source(Kind::Service, |source| source["state"] == "failing")?;
    ground.expect_answers("near")?;
    ensure!(ground.tables()? == before, "it has written something");
    ground.api.apply(web(&ground.other))?;
    ground.api.come_back()?;
    ground.agent.wait_ready()?;
    ground.wait_same().context("after a start in the dark")?;
    ground.expect_answers("other")
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn policies_that_may_not_be_read_are_named_and_services_work() -> Result<()> {
    let mut ground = Ground::start(Vec::new(), |api| {
        api.set_faults(|faults| {
            faults.refused = [
                (Resource::NetworkPolicies, Refusal::Forbidden),
                (Resource::ServiceCidrs, Refusal::Unknown),
            ]
            .into();
        });
    })?;
    let result = forbidden(&mut ground);
    ground.explain(result)
}

fn forbidden(ground: &mut Ground) -> Result<()> {
    ground.expect_answers("near")?;
    ground.wait_source(Kind::NetworkPolicy, |source| {
        let error = source["error"].as_str().unwrap_or_default();
        source["state"] == "forbidden"
            && error.contains("networkpolicies.networking.k8s.io")
            && error.contains("ClusterRole")
    })?;
    ground.wait_source(Kind::ServiceCidr, |source| source["state"] == "absent")?;

    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "nobody", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": "near"}}, "policyTypes": ["Ingress"]},
    });
    ground.api.apply([policy.clone()])?;
    ground.api.set_no_faults();
    ground.wait_source(Kind::NetworkPolicy, |source| {
        source["state"] == "synced" && source["objects"] == 1
    })?;
    ground.wait_answer(false)?;

    // Forbidden again, it stays in force; allowed again, it goes.
    ground.api.set_faults(|faults| {
        faults.refused = [(Resource::NetworkPolicies, Refusal::Forbidden)].into();
    });
    ground.api.cut_watches(Cut::Reset);
    ground.wait_source(Kind::NetworkPolicy, |source| source["state"] == "forbidden")?;
    ensure!(
        !ground.is_answered()?,
        "the policy is not in force any more"
    );
    ground.api.delete(&policy)?;
    ground.api.set_no_faults();
    ground.wait_answer(true)
}
