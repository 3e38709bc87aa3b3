use std::collections::HashMap;

use bollard::{
    Docker,
    models::ContainerCreateBody,
    query_parameters::{CreateContainerOptions, RemoveContainerOptions, StartContainerOptions},
};
use shared::{
    contract::Address,
    discovery::docker::{DockerDiscovery, Engine},
    ops::Readiness,
};

use crate::suite::discovery::World;

/// An image of the test run that has `sleep`; `cargo xtask test` makes it.
const IMAGE: &str = "debian:bookworm-slim";

fn host() -> String {
    std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".into())
}

struct Containers {
    docker: Docker,
}

impl World for Containers {
    async fn start(&mut self, service: &str) -> Address {
        let labels = HashMap::from([
            (
                "com.docker.swarm.service.name".to_owned(),
                service.to_owned(),
            ),
            ("com.docker.stack.namespace".to_owned(), "stack".to_owned()),
        ]);
        let body = ContainerCreateBody {
            image: Some(IMAGE.into()),
            cmd: Some(vec!["sleep".into(), "600".into()]),
            labels: Some(labels),
            ..ContainerCreateBody::default()
        };
        let created = self
            .docker
            .create_container(None::<CreateContainerOptions>, body)
            .await
            .expect("a container is created; is the image there? Run `cargo xtask test`");
        let started = self
            .docker
            .start_container(&created.id, None::<StartContainerOptions>);
        started.await.expect("it starts");
        Address::new(&created.id, service).unwrap()
    }

    async fn end(&mut self, address: &Address) {
        let options = RemoveContainerOptions {
            force: true,
            ..RemoveContainerOptions::default()
        };
        let id = address.container.as_str();
        self.docker
            .remove_container(id, Some(options))
            .await
            .expect("it ends");
    }
}

#[tokio::test]
async fn the_docker_engine_is_a_discovery() {
    let docker = Docker::connect_with_host(&host())
        .expect("an engine at DOCKER_HOST; run `cargo xtask test`")
        .negotiate_version()
        .await
        .expect("the engine answers; run `cargo xtask test`");
    let readiness = Readiness::default();
    let engine = Engine::new(&host()).unwrap();
    let discovery = DockerDiscovery::new(engine, readiness.check("docker"));
    crate::suite::discovery::holds(Box::new(discovery), Containers { docker }).await;
    assert!(readiness.is_ready());
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_an_error_with_its_reason() {
    let engine = Engine::new("unix:///nowhere/docker.sock").unwrap();
    let error = engine.list().await.unwrap_err();
    assert!(
        shared::ops::chain(&error).contains("/nowhere/docker.sock"),
        "{error:?}"
    );
    assert!(Engine::new("docker.sock").is_err());
}
