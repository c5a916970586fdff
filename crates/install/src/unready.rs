//! The reason why agents that run are not ready: what they say themselves, and what to do about it.

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};

use crate::manifest::{ApiServer, Values};
use crate::status::{self, Cluster};

/// The reasons of agents that are not ready, by node; and a hint, if one fits.
pub(crate) async fn ask(
    client: &Client,
    values: &Values,
) -> anyhow::Result<(BTreeMap<String, String>, Option<String>)> {
    let cluster = status::ask(client).await?;
    let hint = if is_cut_off(&cluster) { Some(hint(values, server(client).await.as_ref())) } else { None };
    Ok((problems(&cluster), hint))
}

fn problems(cluster: &Cluster) -> BTreeMap<String, String> {
    let unready = cluster.nodes.iter().filter(|node| !node.ready);
    unready.filter_map(|node| Some((node.name.clone(), node.problems.first()?.clone()))).collect()
}

/// True if an agent has never reached the API server.
fn is_cut_off(cluster: &Cluster) -> bool {
    let mut watches = cluster.nodes.iter().flat_map(|node| node.status.iter().flat_map(|status| &status.watches));
    watches.any(|watch| !watch.connected && !watch.synced)
}

/// Address of the API server, as it says.
async fn server(client: &Client) -> Option<ApiServer> {
    let slice = Api::<EndpointSlice>::namespaced(client.clone(), "default").get("kubernetes").await.ok()?;
    let port = slice.ports.iter().flatten().find_map(|port| port.port)?;
    let host = slice.endpoints.into_iter().flat_map(|endpoint| endpoint.addresses).next()?;
    Some(ApiServer { host, port: u16::try_from(port).ok()? })
}

fn hint(values: &Values, server: Option<&ApiServer>) -> String {
    let wanted = server.map_or_else(|| "HOST:PORT".to_owned(), ToString::to_string);
    let place = match &values.api_server {
        Some(given) => format!("{given}, as they are told"),
        None => {
            "the cluster's Service for it, which leads there only by kube-proxy or something in its place".to_owned()
        }
    };
    format!("hint: agents ask the API server at {place}; ringfence upgrade --api-server {wanted}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_where_agents_ask_and_where_they_should() {
        let values = Values::default();
        let server: ApiServer = "[fd00::1]:6443".parse().unwrap();
        let said = hint(&values, Some(&server));
        assert!(said.contains("Service") && said.ends_with("ringfence upgrade --api-server [fd00::1]:6443"), "{said}");
        let values = Values { api_server: Some("10.0.0.1:443".parse().unwrap()), ..values };
        let said = hint(&values, None);
        assert!(said.contains("10.0.0.1:443, as they are told") && said.ends_with("HOST:PORT"), "{said}");
    }
}
