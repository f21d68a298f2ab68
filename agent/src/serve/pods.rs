//! The health of the service for pods.

use std::sync::Arc;
use std::time::Duration;

use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::pods::Pods;

/// The service's name, as the host's plugin asks for it.
pub const SERVICE: &str = dpu_api::cni_action_server::SERVICE_NAME;

/// Looks at the pods again and again, sooner where something is wrong. That is what mends them after a start, and
/// when a VF has changed.
pub async fn keep_looking(pods: Arc<Pods>, reporter: HealthReporter, pause: Duration) {
    let mut before = None;
    loop {
        let wrong = pods.look().await.err().map(|error| format!("{error:#}"));
        let status = if wrong.is_none() { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(SERVICE, status).await;
        if before.as_ref() != Some(&wrong) {
            if let Some(reason) = &wrong {
                tracing::warn!("not serving pods: {reason}");
            } else {
                tracing::info!("serving pods");
            }
        }
        let soon = wrong.is_some() && matches!(*pods, Pods::On(_));
        before = Some(wrong);
        tokio::time::sleep(if soon { pause / 10 } else { pause }).await;
    }
}
